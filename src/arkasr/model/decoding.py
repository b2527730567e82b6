"""Greedy decoding of a batch of prompts with a key/value cache.

The same tokens as `model.generate(do_sample=False)` with the recogniser's blocked tokens suppressed; rows that have
come to their stop leave the batch. Knows nothing of text or of scoring.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from arkasr.model.recognizer import Prompts, Recognizer
from arkasr.model.scoring import positions

# Leaving copies what stays of the cache, so rows leave together, once this share of the batch is done.
LEAVING_SHARE = 0.25


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
    device = prompts.input_ids.device
    blocked = ~recognizer.allowed_tokens.to(device)
    attention_mask = prompts.attention_mask
    position_ids = positions(attention_mask)
    input_ids, audio, cache = prompts.input_ids, prompts.audio, None
    clips = torch.arange(len(input_ids), device=device)
    running = torch.ones_like(clips, dtype=torch.bool)
    written = torch.full((len(clips), max_new_tokens), recognizer.stop_token_id, device=device)
    candidates: list[Tensor] = []
    for step in range(max_new_tokens):
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
            best = scores.topk(min(top_k, scores.shape[-1])).indices
            candidates.append(best.new_zeros(len(written), best.shape[1]).index_copy(0, clips, best))
        token = scores.argmax(-1).masked_fill(~running, recognizer.stop_token_id)
        written[clips, step] = token
        running = token != recognizer.stop_token_id
        remaining = int(running.sum())
        if remaining == 0:
            break
        input_ids, audio, cache = token[:, None], {}, output.past_key_values
        attention_mask = torch.cat((attention_mask, attention_mask.new_ones(len(clips), 1)), dim=1)
        position_ids = position_ids[:, -1:] + 1
        if remaining <= (1 - LEAVING_SHARE) * len(clips):
            staying = running.nonzero().squeeze(1)
            cache.batch_select_indices(staying)
            clips, running, input_ids = clips[staying], running[staying], input_ids[staying]
            attention_mask, position_ids = attention_mask[staying], position_ids[staying]
    tokens = written[:, : step + 1].cpu()
    stops = tokens == recognizer.stop_token_id
    stopped = stops.any(1)
    lengths = torch.where(stopped, stops.int().argmax(1) + 1, tokens.shape[1]).tolist()
    top_ids = None
    if top_k is not None:
        stacked = torch.stack(candidates, dim=1).cpu()
        top_ids = [row[:length] for row, length in zip(stacked, lengths, strict=True)]
    return Transcripts([row[:length] for row, length in zip(tokens, lengths, strict=True)], stopped, top_ids)
