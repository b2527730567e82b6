"""Greedy decoding of a batch of prompts with a key/value cache.

The same tokens as `model.generate(do_sample=False)` with the recogniser's blocked tokens suppressed, in fewer calls.
Knows nothing of text or of scoring.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from arkasr.model.recognizer import Prompts, Recognizer
from arkasr.model.scoring import positions


@dataclass(frozen=True)
class Transcripts:
    """What a recogniser wrote for each clip.

    Attributes:
        tokens: B int64 tensors `[n_b]` on the CPU; the stop token is the last one where it was written.
        stopped: bool `[B]` on the CPU, False where the cap was reached first.
        top_ids: for each clip int64 `[n_b, k]`: the allowed tokens with the highest scores at each position, best
            first; None when not asked for.
    """

    tokens: list[Tensor]
    stopped: Tensor
    top_ids: list[Tensor] | None


@torch.no_grad()
def decode_greedily(
    recognizer: Recognizer, prompts: Prompts, *, max_new_tokens: int, top_k: int | None = None
) -> Transcripts:
    """Write the most likely allowed token until the stop token or the cap.

    Args:
        recognizer: the model must be in the mode (train or eval) that the caller wants.
        prompts: on the model's device.
        max_new_tokens: cap on the tokens of a transcript, the stop token included.
        top_k: also return the k best allowed tokens at every position.
    """
    batch = prompts.input_ids.shape[0]
    device = prompts.input_ids.device
    blocked = ~recognizer.allowed_tokens.to(device)
    attention_mask = prompts.attention_mask
    position_ids = positions(attention_mask)
    input_ids, audio, cache = prompts.input_ids, prompts.audio, None
    running = torch.ones(batch, dtype=torch.bool, device=device)
    steps: list[Tensor] = []
    candidates: list[Tensor] = []
    for _ in range(max_new_tokens):
        output = recognizer.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **audio,
        )
        scores = output.logits[:, -1].masked_fill(blocked, -torch.inf)
        if top_k is not None:
            candidates.append(scores.topk(min(top_k, scores.shape[-1])).indices)
        token = scores.argmax(-1)
        steps.append(token.masked_fill(~running, recognizer.stop_token_id))
        running = running & (token != recognizer.stop_token_id)
        if not running.any():
            break
        input_ids, audio, cache = steps[-1][:, None], {}, output.past_key_values
        attention_mask = torch.cat((attention_mask, attention_mask.new_ones(batch, 1)), dim=1)
        position_ids = position_ids[:, -1:] + 1
    tokens = torch.stack(steps, dim=1).cpu()
    stops = tokens == recognizer.stop_token_id
    stopped = stops.any(1)
    lengths = torch.where(stopped, stops.int().argmax(1) + 1, tokens.shape[1]).tolist()
    top_ids = None
    if top_k is not None:
        stacked = torch.stack(candidates, dim=1).cpu()
        top_ids = [row[:length] for row, length in zip(stacked, lengths, strict=True)]
    return Transcripts([row[:length] for row, length in zip(tokens, lengths, strict=True)], stopped, top_ids)
