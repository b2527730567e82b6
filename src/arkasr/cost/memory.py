"""What has to be in the memory of one device at the worst moment of a step, item by item, in bytes."""

from collections.abc import Mapping

from arkasr.cost.sizes import Size
from arkasr.cost.work import Batch, positions_of

FLOAT = 4
MOMENTS = 2  # AdamW's; Muon's one for its matrices is counted as two
# Scores of the head that stand in memory at once, elsewhere than on the CPU, with exponentials and the best of them.
TILE_BYTES = 3 * FLOAT * 2**26
# At the loss of SFT: scores, their logarithms, and gradients of both, one of them padded.
CROSS_ENTROPY_BYTES = 4 * FLOAT
# Calls of a layer that is not kept hold some of its parts at once.
PASSING_LAYER = 0.5


def student_memory(size: Size, *, shares: int, mixed: bool, whole: bool = False) -> dict[str, float]:
    """Weights, gradients and moments of a student that is spread over `shares` devices (1 = a whole copy).

    "In use" is what lies beside them: with mixed precision a copy's weights in 2 bytes, from their first use in a
    micro-batch to the backward pass; of a student in shares what is gathered for the layer at work, with its gradients,
    or all weights where `whole`, as while it writes its rollouts.
    """
    weights = float(FLOAT * size.parameters)
    number = 2 if mixed else FLOAT
    if shares > 1:
        in_use = number * (size.parameters if whole else 2 * gathered(size))
    else:
        in_use = number * size.parameters if mixed else 0
    items = {
        "weights": weights / shares,
        "gradients": weights / shares,
        "moments": MOMENTS * weights / shares,
        "in use": float(in_use),
    }
    return {name: amount for name, amount in items.items() if amount}


def gathered(size: Size) -> int:
    """Weights of a student in shares that lie whole on a device at once: what is no layer, a layer and the next one."""
    stacks = (size.encoder, size.decoder)
    layers = sum(stack.layers * stack.matrices for stack in stacks)
    return size.parameters - layers + 2 * max(stack.matrices for stack in stacks)


def kept_for_backward(size: Size, batch: Batch, *, mixed: bool, checkpointing: bool, decoder: bool = True) -> float:
    """Activations of a micro-batch; with activation checkpointing the inputs of all layers and one layer's own."""
    frames = batch.audio * size.frames_per_second
    positions = batch.utterances * positions_of(size, batch) if decoder else 0.0
    stacks = ((size.encoder, frames), (size.decoder, positions))
    kept = [stack.kept(count, mixed=mixed) for stack, count in stacks]
    if not checkpointing:
        return sum(kept)
    inputs = sum(FLOAT * stack.layers * stack.width * count for stack, count in stacks)
    return inputs + max(amount / stack.layers for amount, (stack, _) in zip(kept, stacks, strict=True))


def passing(size: Size, batch: Batch, *, mixed: bool) -> float:
    """What a forward pass without gradient holds at once."""
    positions = max(batch.audio * size.frames_per_second, batch.utterances * positions_of(size, batch))
    one_layer = max(
        size.encoder.kept(1.0, mixed=mixed) / size.encoder.layers,
        size.decoder.kept(1.0, mixed=mixed) / size.decoder.layers,
    )
    return PASSING_LAYER * one_layer * positions


def cache(size: Size, batch: Batch, *, mixed: bool) -> float:
    """Keys and values of a rollout."""
    per_position = 2 * size.decoder.layers * size.decoder.keys * (2 if mixed else FLOAT)
    return per_position * batch.utterances * positions_of(size, batch)


def cross_entropy_scores(size: Size, batch: Batch) -> float:
    """Scores of the whole vocabulary with their gradient."""
    return CROSS_ENTROPY_BYTES * batch.utterances * batch.tokens * size.vocabulary


def peak(items: Mapping[str, float], *, gradients_stay: bool) -> float:
    """Bytes at the worst moment.

    Where gradients do not stay from one micro-batch to the next they grow while activations go.
    """
    total = sum(items.values())
    if gradients_stay:
        return total
    return total - min(items.get("gradients", 0.0), items.get("activations", 0.0) + items.get("scores", 0.0))
