"""Teacher forcing: one decoder pass over prompts and given transcripts.

Out: the hidden states or logits that predict every transcript token. SFT scores references. OPD scores the student's
rollouts, with student and teacher (arXiv 2605.28139, section 3.2). Losses are left to others.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from arkasr.errors import InputError
from arkasr.recognizers.device import to_device
from arkasr.recognizers.recognizer import Prompts, Recognizer


def forced_states(
    recognizer: Recognizer,
    prompts: Prompts,
    transcripts: Sequence[Tensor],
    inputs: Sequence[Tensor] | None = None,
) -> Tensor:
    """The decoder's last hidden states that predict every token of `transcripts`.

    Args:
        recognizer: its model is run.
        prompts: B prompts of width P on the model's device.
        transcripts: B int64 tensors `[n_b]`, each with at least one token.
        inputs: tokens that the model reads in place of `transcripts`, with the same lengths; None = `transcripts`.

    Returns:
        States, transcript after transcript, `[sum n_b, H]`.

    Raises:
        InputError: a transcript is longer than the model can read.
    """
    states, valid = _padded_states(recognizer, prompts, transcripts, inputs)
    return states.flatten(0, 1).index_select(0, valid)


def forced_logits(
    recognizer: Recognizer,
    prompts: Prompts,
    transcripts: Sequence[Tensor],
    inputs: Sequence[Tensor] | None = None,
) -> Tensor:
    """The logits of `forced_states`, `[sum n_b, V]`, with the same arguments."""
    states, valid = _padded_states(recognizer, prompts, transcripts, inputs)
    # Padded positions get logits, too. Without them the sums round differently, and the golden losses change.
    return F.linear(states, recognizer.head).flatten(0, 1).index_select(0, valid)


def _padded_states(
    recognizer: Recognizer, prompts: Prompts, transcripts: Sequence[Tensor], inputs: Sequence[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """States of the transcripts, padded `[B, n, H]`, and the indices of the valid ones among all B · n."""
    device = prompts.input_ids.device
    prompts = recognizer.embed_audio(prompts)
    width = max(map(len, transcripts))
    check_transcript_length(recognizer, width, "the length of a transcript (with `join_share`, of two)")
    valid = torch.arange(width) < torch.tensor([len(transcript) for transcript in transcripts])[:, None]
    padded = pad_sequence([tokens.cpu() for tokens in inputs or transcripts], True, recognizer.tokenizer.pad_token_id)
    # The last token is no input, because nothing is predicted from it.
    input_ids = torch.cat((prompts.input_ids, to_device(padded[:, :-1], device)), dim=1)
    attention_mask = torch.cat((prompts.attention_mask, to_device(valid[:, :-1].long(), device)), dim=1)
    states, _ = recognizer.decoder_states(input_ids, attention_mask, positions(attention_mask), prompts.audio)
    return states[:, -width:], to_device(valid.flatten().nonzero().squeeze(1), device)


def check_transcript_length(recognizer: Recognizer, tokens: int, subject: str) -> None:
    """Check that a model can write so many tokens.

    Args:
        recognizer: the model.
        tokens: of a transcript, the stop token included.
        subject: what has so many tokens, for the message.

    Raises:
        InputError: it cannot.
    """
    if not recognizer.can_write(tokens):
        raise InputError(f"{subject} is {tokens}; the model writes at most {recognizer.longest_transcript} tokens")


def positions(attention_mask: Tensor) -> Tensor:
    """Position of every token, counted from the first valid one of its row, int64 `[B, L]`; 0 at left padding."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)
