"""Teacher forcing: what a recogniser would have written at every position of a given transcript.

One pass over prompt and transcript, of which the transcript's positions are kept. The same function serves a reference
(SFT), a student's own rollout, and the teacher along that rollout (arXiv 2605.28139, section 3.2).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from arkasr.recognizers.device import to_device
from arkasr.recognizers.recognizer import Prompts, Recognizer


def forced_states(
    recognizer: Recognizer,
    prompts: Prompts,
    transcripts: Sequence[Tensor],
    read: Sequence[Tensor] | None = None,
) -> Tensor:
    """What the decoder holds where it would write every token of `transcripts`, given audio, prompt and what is before.

    Args:
        recognizer: reads.
        prompts: B prompts of width P on the model's device.
        transcripts: B int64 tensors `[n_b]`, each with at least one token.
        read: what the model is shown in place of `transcripts`, token for token; None = the transcripts themselves.

    Returns:
        Last states of all scored positions, transcript after transcript, `[sum n_b, H]`.
    """
    states, scored = _padded_states(recognizer, prompts, transcripts, read)
    return states.flatten(0, 1).index_select(0, scored)


def forced_logits(
    recognizer: Recognizer,
    prompts: Prompts,
    transcripts: Sequence[Tensor],
    read: Sequence[Tensor] | None = None,
) -> Tensor:
    """Score every token at the positions of `forced_states`, `[sum n_b, V]`; arguments as there."""
    states, scored = _padded_states(recognizer, prompts, transcripts, read)
    # Padding included: the committed results were computed in this order of sums.
    return F.linear(states, recognizer.head).flatten(0, 1).index_select(0, scored)


def _padded_states(
    recognizer: Recognizer, prompts: Prompts, transcripts: Sequence[Tensor], read: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """States at the places of the transcripts `[B, n, H]`, and the places that are scored, of all B · n."""
    device = prompts.input_ids.device
    prompts = recognizer.embed_audio(prompts)
    width = max(map(len, transcripts))
    real = torch.arange(width) < torch.tensor([len(transcript) for transcript in transcripts])[:, None]
    shown = pad_sequence([tokens.cpu() for tokens in read or transcripts], True, recognizer.tokenizer.pad_token_id)
    # The last token is never an input: nothing is predicted from it.
    input_ids = torch.cat((prompts.input_ids, to_device(shown[:, :-1], device)), dim=1)
    attention_mask = torch.cat((prompts.attention_mask, to_device(real[:, :-1].long(), device)), dim=1)
    states, _ = recognizer.decoder_states(input_ids, attention_mask, positions(attention_mask), prompts.audio)
    return states[:, -width:], to_device(real.flatten().nonzero().squeeze(1), device)


def positions(attention_mask: Tensor) -> Tensor:
    """Position of every token counted from the first real one of its row, int64 `[B, L]`; 0 at padding."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)
