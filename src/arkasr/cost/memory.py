"""Bytes in the memory of one device at the peak of a step, by item.

In: the stage, the sizes of its models and a micro-batch. Out: bytes of each item. Allocator and kernels are left out.
"""

from collections.abc import Mapping

from arkasr.cost.sizes import FLOAT_BYTES, Size, number_bytes
from arkasr.cost.work import Batch, ctc_batch, decoder_positions, encoder_positions
from arkasr.recipe.settings import CtcStageSettings, OpdStageSettings, SftStageSettings

TrainingStage = CtcStageSettings | SftStageSettings | OpdStageSettings

MOMENTS = 2  # of AdamW; Muon keeps only one for its matrices, but two are counted
# On accelerators, logits of the output head are computed in tiles, with their exponentials and top-k.
TILE_BYTES = 3 * FLOAT_BYTES * 2**26
# Cross-entropy holds four floats for each logit: the logit, its log-probability, and a gradient of each.
CROSS_ENTROPY_BYTES = 4 * FLOAT_BYTES
# Without gradients, a layer holds at most about half of the activations that it would keep for a backward pass.
TEMPORARY_SHARE = 0.5


def training_memory(
    stage: TrainingStage, student: Size, teacher: Size | None, batch: Batch, *, shards: int, tiled: bool
) -> dict[str, float]:
    """Items in memory at the peak of a training step.

    Args:
        stage: settings of the stage.
        student: size of the student.
        teacher: size of an OPD teacher in this process, else None.
        batch: one micro-batch.
        shards: devices that the student is sharded across; 1 = a full copy on each.
        tiled: whether the output head computes in tiles, as on accelerators.
    """
    if isinstance(stage, OpdStageSettings):
        return _opd_memory(stage, student, teacher, batch, shards=shards, tiled=tiled)
    settings = stage.optimization
    mixed, checkpointing = settings.mixed_precision != "no", settings.activation_checkpointing
    is_ctc = isinstance(stage, CtcStageSettings)
    kept = kept_for_backward(student, batch, mixed=mixed, checkpointing=checkpointing, decoder=not is_ctc)
    logits = cross_entropy_bytes(student, ctc_batch(student, batch) if is_ctc else batch)
    return student_memory(student, shards=shards, mixed=mixed) | {"activations": kept, "temporary": logits}


def _opd_memory(
    stage: OpdStageSettings, student: Size, teacher: Size | None, batch: Batch, *, shards: int, tiled: bool
) -> dict[str, float]:
    """The largest of three peaks: backward pass, rollout of a sharded student, scoring by an offloaded teacher."""
    settings = stage.optimization
    mixed, checkpointing = settings.mixed_precision != "no", settings.activation_checkpointing
    encoder_only = kept_for_backward(student, batch, mixed=mixed, checkpointing=checkpointing, decoder=False)
    kept = kept_for_backward(student, batch, mixed=mixed, checkpointing=checkpointing)
    before_backward = student_memory(student, shards=shards, mixed=mixed) | {
        "activations": kept,
        "temporary": TILE_BYTES if tiled else 0.0,
        "cache": kv_cache(student, batch, mixed=mixed),
    }
    if stage.objective.label_weight > 0:
        before_backward["activations"] += kept - encoder_only
        before_backward["temporary"] += cross_entropy_bytes(student, batch)
    if teacher is not None:
        # Offloading leaves the output head on the device, for the logits on the support.
        kept_weights = teacher.head_weights if stage.offload_teacher else teacher.parameters
        before_backward["teacher"] = float(FLOAT_BYTES) * kept_weights
        before_backward["temporary"] += temporary_activations(teacher, batch, mixed=mixed)
    before_decoder = before_backward | {"activations": encoder_only}
    peaks = [before_backward]
    if shards > 1:
        gathered_student = student_memory(student, shards=shards, mixed=mixed, all_gathered=True)
        peaks.append(before_decoder | gathered_student | {"temporary": 0.0})
    if teacher is not None and stage.offload_teacher:
        peaks.append(before_decoder | {"teacher": float(FLOAT_BYTES) * teacher.parameters})
    return max(peaks, key=lambda items: sum(items.values()))


def label_memory(teacher: Size, batch: Batch) -> dict[str, float]:
    """Items in memory while a teacher labels a batch in float32."""
    return {
        "teacher": float(FLOAT_BYTES) * teacher.parameters,
        "temporary": temporary_activations(teacher, batch, mixed=False),
        "cache": kv_cache(teacher, batch, mixed=False),
    }


def student_memory(size: Size, *, shards: int, mixed: bool, all_gathered: bool = False) -> dict[str, float]:
    """Weights, and gradients and moments of the trained ones, on one of `shards` devices (1 = a full copy).

    "compute" is the memory for weights in the precision of the computation. With mixed precision, a device with a
    full copy also holds each weight in 2 bytes, from its first use to the backward pass. FSDP2 gathers the
    non-layer weights and two layers with their gradients. In a rollout it gathers all weights (`all_gathered`).
    """
    weights, trained = float(FLOAT_BYTES * size.parameters), float(FLOAT_BYTES * size.trained_parameters)
    if shards == 1:
        copied = size.parameters if mixed else 0
    else:
        copied = size.parameters if all_gathered else 2 * gathered(size)
    items = {
        "weights": weights / shards,
        "gradients": trained / shards,
        "moments": MOMENTS * trained / shards,
        "compute": float(number_bytes(mixed) * copied),
    }
    return {name: amount for name, amount in items.items() if amount}


def gathered(size: Size) -> int:
    """Weights that FSDP2 gathers at once: the non-layer weights, the current layer and the next."""
    return (
        size.parameters - size.layer_weights + 2 * max(size.encoder.weights_per_layer, size.decoder.weights_per_layer)
    )


def kept_for_backward(size: Size, batch: Batch, *, mixed: bool, checkpointing: bool, decoder: bool = True) -> float:
    """Bytes of the activations of a micro-batch. A frozen encoder keeps none.

    A cross-attention keeps keys and values of all encoder positions, besides what the decoder's own positions keep.
    Activation checkpointing keeps the inputs of all layers and, in the backward pass, the activations of one layer.
    """
    frames = 0.0 if "encoder" in size.frozen else encoder_positions(size, batch)
    positions = batch.utterances * decoder_positions(size, batch) if decoder else 0.0
    stacks = ((size.encoder, frames), (size.decoder, positions))
    kept = [stack.kept_bytes(count, mixed=mixed) for stack, count in stacks]
    if decoder:
        # In 2 bytes, keys and values are half as large, but each of them also keeps a copy of its input.
        kept[1] += size.cache_bytes(batch.utterances * size.cross_positions, mixed=False)
    if not checkpointing:
        return sum(kept)
    inputs = sum(FLOAT_BYTES * stack.layers * stack.width * count for stack, count in stacks)
    return inputs + max(amount / stack.layers for amount, (stack, _) in zip(kept, stacks, strict=True))


def temporary_activations(size: Size, batch: Batch, *, mixed: bool) -> float:
    """Bytes of activations that a forward pass without gradients holds at once."""
    positions = max(encoder_positions(size, batch), batch.utterances * decoder_positions(size, batch))
    stacks = (size.encoder, size.decoder)
    one_layer = max(stack.kept_bytes(1.0, mixed=mixed) / stack.layers for stack in stacks)
    return TEMPORARY_SHARE * one_layer * positions


def kv_cache(size: Size, batch: Batch, *, mixed: bool) -> float:
    """Bytes of the keys and values of a rollout."""
    positions = decoder_positions(size, batch) + size.cross_positions
    return size.cache_bytes(batch.utterances * positions, mixed=mixed)


def cross_entropy_bytes(size: Size, batch: Batch) -> float:
    """Bytes of the logits over the vocabulary and their gradients."""
    return CROSS_ENTROPY_BYTES * batch.transcript_tokens * size.vocabulary


def peak(items: Mapping[str, float], *, gradients_stay: bool) -> float:
    """Bytes at the peak of a step.

    On one device with one micro-batch a step, gradients do not exist before the backward pass. They grow while it frees
    activations, so only the larger of the two counts.
    """
    total = sum(items.values())
    if gradients_stay:
        return total
    freed = items.get("activations", 0.0) + items.get("temporary", 0.0)
    return total - min(items.get("gradients", 0.0), freed)
