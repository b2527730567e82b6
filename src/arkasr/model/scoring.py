"""Teacher forcing: what a recogniser would have written at every position of a given transcript.

One pass over prompt and transcript; logits are computed at the transcript's positions only. The same function scores a
reference (SFT), a student's own rollout, and the teacher along that rollout (arXiv 2605.28139, section 3.2).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from arkasr.model.recognizer import Prompts


def forced_logits(
    model: Any,
    prompts: Prompts,
    transcripts: Sequence[Tensor],
    pad_token_id: int,
    read: Sequence[Tensor] | None = None,
) -> Tensor:
    """Score every token of `transcripts` given audio, prompt and the tokens before it.

    Args:
        model: a recogniser's model, possibly wrapped for distribution.
        prompts: B prompts of width P on the model's device.
        transcripts: B int64 tensors `[n_b]`, each with at least one token.
        pad_token_id: fills the right of shorter transcripts; never attended to by a scored position.
        read: what the model is shown in place of `transcripts`, token for token; None = the transcripts themselves.

    Returns:
        Logits of all scored positions, transcript after transcript, `[sum n_b, V]`.
    """
    device = prompts.input_ids.device
    lengths = torch.tensor([len(transcript) for transcript in transcripts], device=device)
    shown = pad_sequence([transcript.to(device) for transcript in read or transcripts], True, pad_token_id)
    width = shown.shape[1]
    scored = torch.arange(width, device=device) < lengths[:, None]
    # The last token is never an input: nothing is predicted from it.
    input_ids = torch.cat((prompts.input_ids, shown[:, :-1]), dim=1)
    attention_mask = torch.cat((prompts.attention_mask, scored[:, :-1].long()), dim=1)
    logits = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions(attention_mask),
        logits_to_keep=width,
        use_cache=False,
        **prompts.audio,
    ).logits
    return logits[scored]


def positions(attention_mask: Tensor) -> Tensor:
    """Position of every token counted from the first real one of its row, int64 `[B, L]`; 0 at padding."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)
