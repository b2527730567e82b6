"""Time and memory of one step of every stage of a recipe on a cluster.

In: a recipe, a cluster and assumptions about speech. Out: a `StageCost` for each stage. Neither data nor weights are
needed. Work, seconds and bytes are computed by `work`, `timing`, `links` and `memory`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from arkasr.cost import memory, work
from arkasr.cost.assumptions import Assumptions
from arkasr.cost.device import Device
from arkasr.cost.links import all_reduce_seconds, sharded_seconds
from arkasr.cost.memory import TrainingStage
from arkasr.cost.sizes import FLOAT_BYTES, Size, number_bytes, size_of_model
from arkasr.cost.timing import feature_wait, optimizer_seconds, work_seconds
from arkasr.cost.work import Batch, Decoding, Work
from arkasr.errors import InputError
from arkasr.recipe.settings import CtcStageSettings, LabelStageSettings, OpdStageSettings, Recipe
from arkasr.recipe.settings.rules import check_parts_of_stages
from arkasr.train.parts import trainable_parts

SECONDS_PER_HOUR = 3600.0
SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class Cluster:
    """A number of equal devices."""

    device: Device
    devices: int


@dataclass(frozen=True)
class StageCost:
    """The cost of one step of a stage. A step of a label stage is one batch on each device.

    Attributes:
        stage: name of the stage.
        phases: seconds of one device, by phase.
        link_seconds: communication that does not overlap with computation.
        slowest_wait_seconds: waiting for the slowest device.
        feature_wait_seconds: waiting for features.
        micro_batches_per_device: micro-batches that one device computes one after another.
        micro_batches: micro-batches of all devices together.
        audio: seconds of speech of all devices together.
        tokens: transcript tokens of all devices together.
        steps: optimizer steps in the recipe; None for a label stage.
        memory: bytes of one device by item, around the peak. Not all items need exist at the same time.
        peak: bytes of one device at the peak; at most the sum of `memory`.
        checkpoint: bytes of a checkpoint; 0 for a label stage.
    """

    stage: str
    phases: Mapping[str, float]
    link_seconds: float
    slowest_wait_seconds: float
    feature_wait_seconds: float
    micro_batches_per_device: int
    micro_batches: int
    audio: float
    tokens: float
    steps: int | None
    memory: Mapping[str, float]
    peak: float
    checkpoint: float

    @property
    def seconds(self) -> float:
        """Seconds of a step."""
        waits = self.link_seconds + self.slowest_wait_seconds + self.feature_wait_seconds
        return sum(self.phases.values()) + waits

    @property
    def speed(self) -> float:
        """Seconds of speech for each second of computing."""
        return self.audio / self.seconds

    def days(self, hours: float) -> float:
        """Days to process this many hours of speech."""
        return hours * SECONDS_PER_HOUR / self.speed / SECONDS_PER_DAY


def stage_costs(recipe: Recipe, cluster: Cluster, assumptions: Assumptions) -> list[StageCost]:
    """The cost of every stage, in the order of the recipe.

    Raises:
        InputError: the size of a model is not known, the utterances are longer than its window, or the device has no
            figure for a stage's precision.
    """

    @cache
    def size_of_origin(model: str) -> Size:
        return size_of_model(model, recipe.models[model], recipe.tokenizer)

    costs = []
    for name, stage in recipe.stages.items():
        start = size_of_origin(recipe.origin(stage.start))
        check_window(name, start, assumptions)
        if isinstance(stage, LabelStageSettings):
            costs.append(label_cost(name, stage, start, cluster, assumptions))
            continue
        teacher = None
        if isinstance(stage, OpdStageSettings) and not is_served(recipe, stage):
            teacher = size_of_origin(recipe.origin(stage.teacher))
            check_window(name, teacher, assumptions)
        batch, decoding = assumed_batch(recipe, stage, start, assumptions)
        check_parts_of_stages(recipe, recipe.origin(name), start.parts)
        costs.append(training_cost(name, stage, start, teacher, cluster, batch, decoding, assumptions))
    return costs


def check_window(stage: str, size: Size, assumptions: Assumptions) -> None:
    """Check that the assumed utterances fit into the window of a model.

    Raises:
        InputError: they do not; names the stage.
    """
    window, seconds = size.padded_seconds, assumptions.utterance_seconds
    if window is not None and seconds > window:
        raise InputError(
            f"stages.{stage}: the estimate assumes utterances of {seconds:g} s, but a model has a window of {window:g} "
            f"s; give --utterance-seconds of at most {window:g}"
        )


def training_cost(
    name: str,
    stage: TrainingStage,
    student: Size,
    teacher: Size | None,
    cluster: Cluster,
    batch: Batch,
    decoding: Decoding,
    assumptions: Assumptions,
) -> StageCost:
    """The cost of a step of a training stage.

    Args:
        name: name of the stage.
        stage: settings of the stage.
        student: size of the student.
        teacher: size of an OPD teacher in this process, else None.
        cluster: devices that train.
        batch: one micro-batch, padding included.
        decoding: decoding of its rollout; used by OPD only.
        assumptions: padding, and the delay of the slowest device.

    Raises:
        InputError: the device has no figure for the stage's precision.
    """
    settings, device = stage.optimization, cluster.device
    trained = {*trainable_parts(stage.kind, student.parts)} - {*settings.freeze}
    student = replace(student, frozen=frozenset(student.parts) - trained)
    micro_batches_per_device = math.ceil(settings.accumulation / cluster.devices)
    shards = cluster.devices if settings.sharding == "full" else 1
    micro_batch_work = _training_work(stage, student, teacher, batch, decoding)
    seconds = {
        phase: micro_batches_per_device * work_seconds(each, device, settings.mixed_precision)
        for phase, each in micro_batch_work.items()
    }
    computing = sum(seconds.values())
    audio = batch.audio * (1 - assumptions.padding)
    features = audio * (1 if teacher is None else 2) / device.feature_rate
    items = memory.training_memory(stage, student, teacher, batch, shards=shards, tiled=device.launches_asynchronously)
    return StageCost(
        stage=name,
        phases=seconds | {"optimizer": optimizer_seconds(student, device, shards=shards)},
        link_seconds=_exposed_link_seconds(stage, student, cluster, seconds, micro_batches_per_device),
        slowest_wait_seconds=computing * (assumptions.slowest_to_mean - 1) if cluster.devices > 1 else 0.0,
        feature_wait_seconds=micro_batches_per_device
        * feature_wait(features, computing / micro_batches_per_device, settings.data_workers),
        micro_batches_per_device=micro_batches_per_device,
        micro_batches=settings.accumulation,
        audio=settings.accumulation * audio,
        tokens=settings.accumulation * batch.transcript_tokens,
        steps=settings.steps,
        memory=items,
        peak=memory.peak(items, gradients_stay=cluster.devices > 1 or micro_batches_per_device > 1),
        checkpoint=float(FLOAT_BYTES) * (student.parameters + memory.MOMENTS * student.trained_parameters),
    )


def label_cost(
    name: str, stage: LabelStageSettings, teacher: Size, cluster: Cluster, assumptions: Assumptions
) -> StageCost:
    """The cost of labelling one batch on every device.

    Raises:
        InputError: the device has no figure for float32.
    """
    device, max_tokens = cluster.device, float(stage.max_new_tokens)
    batch = batch_of_seconds(stage.batch_seconds, None, max_tokens, assumptions, teacher.padded_seconds)
    passes = assumptions.decoder_passes(batch.tokens, max_tokens, drafted=False)
    phases = {
        phase: work_seconds(each, device, "no") for phase, each in work.label_phases(teacher, batch, passes).items()
    }
    audio = batch.audio * (1 - assumptions.padding)
    # On an accelerator one thread computes features ahead of the batch (arkasr.recognizers.inference).
    workers = 1 if device.launches_asynchronously else 0
    items = memory.label_memory(teacher, batch)
    return StageCost(
        stage=name,
        phases=phases,
        link_seconds=0.0,
        slowest_wait_seconds=0.0,
        feature_wait_seconds=feature_wait(audio / device.feature_rate, sum(phases.values()), workers),
        micro_batches_per_device=1,
        micro_batches=cluster.devices,
        audio=cluster.devices * audio,
        tokens=cluster.devices * batch.transcript_tokens,
        steps=None,
        memory=items,
        peak=sum(items.values()),
        checkpoint=0.0,
    )


def assumed_batch(
    recipe: Recipe, stage: TrainingStage, student: Size, assumptions: Assumptions
) -> tuple[Batch, Decoding]:
    """A micro-batch of a training stage and the decoding of its rollout, under the assumptions."""
    settings = stage.optimization
    max_tokens, drafted = None, False
    if isinstance(stage, OpdStageSettings):
        max_tokens, drafted = float(stage.objective.max_new_tokens), has_drafts(recipe, stage)
    batch = batch_of_seconds(
        settings.batch_seconds, settings.batch_utterances, max_tokens, assumptions, student.padded_seconds
    )
    passes = assumptions.decoder_passes(batch.tokens, max_tokens or batch.tokens, drafted=drafted)
    return batch, Decoding(passes, drafted)


def batch_of_seconds(
    seconds: float,
    max_utterances: int | None,
    max_tokens: float | None,
    assumptions: Assumptions,
    window_seconds: float | None = None,
) -> Batch:
    """A micro-batch of up to `seconds` of audio, padding included.

    A model that pads every utterance to `window_seconds` gets one utterance for each of them.
    """
    padded = min(assumptions.utterance_seconds / (1 - assumptions.padding), seconds)
    fitting = max(seconds / (window_seconds or padded), 1.0)
    utterances = fitting if max_utterances is None else min(fitting, max_utterances)
    tokens = padded * (1 - assumptions.padding) * assumptions.tokens_per_second + 1  # and the stop token
    return Batch(utterances, padded, min(tokens, max_tokens or tokens))


def is_served(recipe: Recipe, stage: OpdStageSettings) -> bool:
    """Whether the teacher runs on servers, which are not among the cluster's devices."""
    model = recipe.models.get(stage.teacher)
    return model is not None and model.served is not None


def has_drafts(recipe: Recipe, stage: OpdStageSettings) -> bool:
    """Whether the first rollout of an utterance has a draft.

    It is a text of `stage.drafts`, a teacher's label, or the utterance's own text.
    """
    if stage.drafts is not None:
        return True
    train = recipe.sets.get(stage.train)
    return train is None or train.labels == "given"


def _training_work(
    stage: TrainingStage, student: Size, teacher: Size | None, batch: Batch, decoding: Decoding
) -> dict[str, Work]:
    settings = stage.optimization
    mixed, checkpointing = settings.mixed_precision != "no", settings.activation_checkpointing
    if isinstance(stage, OpdStageSettings):
        labels = stage.objective.label_weight > 0
        return work.opd_phases(
            student, teacher, batch, decoding, mixed=mixed, checkpointing=checkpointing, labels=labels
        )
    phases = work.ctc_phases if isinstance(stage, CtcStageSettings) else work.sft_phases
    return phases(student, batch, mixed=mixed, checkpointing=checkpointing)


def _gathers(stage: TrainingStage) -> int:
    """How often FSDP2 gathers the weights for a micro-batch: for each forward pass, and for the backward pass."""
    if not isinstance(stage, OpdStageSettings):
        return 2
    return 4 if stage.objective.label_weight > 0 else 3


def _exposed_link_seconds(
    stage: TrainingStage, student: Size, cluster: Cluster, seconds: Mapping[str, float], micro_batches_per_device: int
) -> float:
    """Seconds of communication in a step that do not overlap with computation.

    DDP sends gradients during the last backward pass, FSDP2 sends weights and gradients during all phases.
    """
    device, devices, settings = cluster.device, cluster.devices, stage.optimization
    if settings.sharding == "none":
        return max(
            all_reduce_seconds(student.trained_parameters, device, devices)
            - seconds["backward"] / micro_batches_per_device,
            0.0,
        )
    sending = micro_batches_per_device * sharded_seconds(
        student.parameters,
        student.trained_parameters,
        student.layers,
        device,
        devices,
        gathers=_gathers(stage),
        number_bytes=number_bytes(settings.mixed_precision != "no"),
    )
    return max(sending - sum(seconds.values()), 0.0)
