"""Time and memory of a step of one stage on given devices: the work of its phases held against their ceilings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from arkasr.cost import memory, work
from arkasr.cost.assumptions import Assumptions
from arkasr.cost.device import Device, Precision
from arkasr.cost.links import all_reduce_seconds, sharded_seconds
from arkasr.cost.sizes import Size, size_of_model
from arkasr.cost.work import Batch, Work
from arkasr.errors import InputError
from arkasr.recipe.load import apply_overrides, parse
from arkasr.recipe.settings import (
    CtcStageSettings,
    LabelStageSettings,
    OpdStageSettings,
    Recipe,
    SftStageSettings,
)
from arkasr.train.settings import OptimizationSettings

SECONDS_PER_HOUR = 3600.0
TrainingStage = CtcStageSettings | SftStageSettings | OpdStageSettings


@dataclass(frozen=True)
class Cluster:
    """So many devices of one kind."""

    device: Device
    devices: int


@dataclass(frozen=True)
class StageCost:
    """What a step of a stage costs; of a label stage, a batch on every device.

    Attributes:
        stage: its name.
        kind: of stage.
        phases: seconds of one device, by phase, in one step.
        links: seconds in which devices talk and do not compute at the same time.
        slowest: seconds for which the others wait for the slowest device.
        data: seconds for which devices wait for features.
        rounds: micro-batches that one device works off, one behind the other, in a step.
        micro_batches: of all devices together.
        devices: of the cluster.
        audio: seconds of speech in a step, of all devices together.
        tokens: of transcripts in a step, of all devices together.
        steps: that the recipe asks for; None where it asks for a whole set.
        workers_needed: processes that compute features, for every device, as many as would keep up.
        memory: bytes of one device at the worst moment, by what they hold.
        peak: bytes of one device at the worst moment.
        checkpoint: bytes of a checkpoint; 0 where none is written.
    """

    stage: str
    kind: str
    phases: Mapping[str, float]
    links: float
    slowest: float
    data: float
    rounds: int
    micro_batches: int
    devices: int
    audio: float
    tokens: float
    steps: int | None
    workers_needed: int
    memory: Mapping[str, float]
    peak: float
    checkpoint: float

    @property
    def seconds(self) -> float:
        """Of a step."""
        return sum(self.phases.values()) + self.links + self.slowest + self.data

    @property
    def speed(self) -> float:
        """Seconds of speech worked off in a second."""
        return self.audio / self.seconds

    @property
    def idle(self) -> float:
        """Share of the devices' time in which they have no micro-batch."""
        return 1 - self.micro_batches / (self.rounds * self.devices)

    def days(self, hours: float) -> float:
        """Days for so many hours of speech."""
        return hours * SECONDS_PER_HOUR / self.speed / 86_400


@dataclass(frozen=True)
class Plan:
    """A recipe on devices.

    Attributes:
        recipe: its models stay as they are in all plans that share `sizes`.
        cluster: runs it.
        assumed: of speech, drafts and batches.
        sizes: of models that have been counted, by name.
    """

    recipe: Recipe
    cluster: Cluster
    assumed: Assumptions
    sizes: dict[str, Size] = field(default_factory=dict, repr=False, compare=False)

    def cost(self, name: str) -> StageCost:
        """What a stage costs.

        Raises:
            InputError: the size of a model is not known, or the device has no figure for the recipe's precision.
        """
        stage = self.recipe.stages[name]
        start = self._size(stage.start)
        if isinstance(stage, LabelStageSettings):
            return _labelling(name, stage, start, self.cluster, self.assumed)
        teacher, drafted = None, False
        if isinstance(stage, OpdStageSettings):
            teacher = None if is_served(self.recipe, stage) else self._size(stage.teacher)
            drafted = _has_drafts(self.recipe, stage)
        return training_cost(name, stage, start, teacher, self.cluster, self.assumed, drafted=drafted)

    def costs(self) -> list[StageCost]:
        """What every stage costs, in their order.

        Raises:
            InputError: as `cost` does.
        """
        return [self.cost(name) for name in self.recipe.stages]

    def with_set(self, overrides: Sequence[str]) -> "Plan":
        """The plan of the recipe with other values, given as behind `--set`.

        Raises:
            InputError: the recipe may not have them.
        """
        document = apply_overrides(self.recipe.model_dump(mode="json"), overrides)
        return replace(self, recipe=parse(Recipe, document, self.recipe.name))

    def _size(self, name: str) -> Size:
        model = self.recipe.origin(name)
        if model not in self.sizes:
            self.sizes[model] = size_of_model(model, self.recipe.models[model], self.recipe.tokenizer)
        return self.sizes[model]


def training_cost(
    name: str,
    stage: TrainingStage,
    student: Size,
    teacher: Size | None,
    cluster: Cluster,
    assumed: Assumptions,
    *,
    drafted: bool,
    batch: Batch | None = None,
    passes: float | None = None,
) -> StageCost:
    """The cost of a step of a training stage.

    Args:
        name: of the stage.
        stage: its settings.
        student: learns.
        teacher: of an opd stage, where it is not served.
        cluster: trains.
        assumed: of speech, drafts and batches.
        drafted: whether the first rollouts of an utterance have a draft.
        batch: a micro-batch whose lengths are known; None = as `assumed` has them.
        passes: of a rollout, where they are known.

    Raises:
        InputError: the device has no figure for the stage's precision.
    """
    settings, device, devices = stage.optimization, cluster.device, cluster.devices
    cap = float(stage.objective.max_new_tokens) if isinstance(stage, OpdStageSettings) else None
    if batch is None:
        batch = micro_batch(settings.batch_seconds, settings.batch_utterances, assumed, cap)
    if passes is None:
        passes = assumed.passes(batch.tokens, cap or batch.tokens, drafted=drafted)
    phases = _phases_of(stage, student, teacher, batch, passes, drafted=drafted)
    seconds = {phase: seconds_of(each, device, settings.mixed_precision) for phase, each in phases.items()}
    rounds = -(-settings.accumulation // devices)
    one_round = sum(seconds.values())
    shares = devices if settings.sharding == "full" else 1
    talking = _links(student, settings, cluster, stage.kind) * (rounds if shares > 1 else 1)
    # Copies send gradients during the last backward pass, shares their weights and gradients during any pass.
    meanwhile = one_round * rounds if shares > 1 else seconds["backward"]
    slowest = rounds * one_round * (assumed.slowest - 1) if devices > 1 else 0.0
    update = _update_seconds(student, shares, device)
    frontends = 2 if teacher is not None else 1
    hearing = batch.audio * (1 - assumed.padding) * frontends / device.hearing
    held = _held(stage, student, teacher, batch, shares=shares, tiles=device.launches_ahead)
    return StageCost(
        stage=name,
        kind=stage.kind,
        phases={phase: rounds * amount for phase, amount in seconds.items()} | {"optimizer": update},
        links=max(talking - meanwhile, 0.0),
        slowest=slowest,
        data=_waits(hearing, one_round, settings.data_workers) * rounds,
        rounds=rounds,
        micro_batches=settings.accumulation,
        devices=devices,
        audio=settings.accumulation * batch.audio * (1 - assumed.padding),
        tokens=settings.accumulation * batch.utterances * batch.tokens,
        steps=settings.steps,
        workers_needed=_workers_needed(hearing, one_round),
        memory=held,
        peak=memory.peak(held, gradients_stay=devices > 1 or rounds > 1),
        checkpoint=4.0 * student.parameters * (1 + memory.MOMENTS),
    )


def micro_batch(seconds: float, most: int | None, assumed: Assumptions, cap: float | None) -> Batch:
    """As many utterances as a budget of audio seconds holds, padding included."""
    padded = min(assumed.utterance_seconds / (1 - assumed.padding), seconds)
    utterances = seconds / padded if most is None else min(seconds / padded, most)
    tokens = padded * (1 - assumed.padding) * assumed.tokens_per_second + 1
    return Batch(utterances, padded, min(tokens, cap or tokens))


def seconds_of(each: Work, device: Device, precision: Precision) -> float:
    """How long a device takes.

    Products wait for their weights to be read; calls are launched beside earlier ones where the device can do that.

    Raises:
        InputError: the device has no figure for the precision.
    """
    if precision not in device.operations:
        raise InputError(
            f"mixed_precision {precision}: device {device.name} has no figure for it; known are "
            f"{', '.join(device.operations)}"
        )
    bandwidth = device.bandwidth * device.shares.bandwidth
    products = each.operations / (device.operations[precision] * device.shares.products)
    running = max(products, each.weights / bandwidth) + each.traffic / (device.bandwidth * device.shares.sweeps)
    launching = each.layers * device.layer_seconds
    return max(running, launching) if device.launches_ahead else running + launching


def _labelling(
    name: str, stage: LabelStageSettings, teacher: Size, cluster: Cluster, assumed: Assumptions
) -> StageCost:
    device = cluster.device
    batch = micro_batch(stage.batch_seconds, None, assumed, float(stage.max_new_tokens))
    passes = assumed.passes(batch.tokens, float(stage.max_new_tokens), drafted=False)
    phases = {phase: seconds_of(each, device, "no") for phase, each in work.labelled(teacher, batch, passes).items()}
    hearing = batch.audio * (1 - assumed.padding) / device.hearing
    computing = sum(phases.values())
    held = {
        "teacher": 4.0 * teacher.parameters,
        "scores": memory.passing(teacher, batch, mixed=False),
        "cache": memory.cache(teacher, batch, mixed=False),
    }
    return StageCost(
        stage=name,
        kind=stage.kind,
        phases=phases,
        links=0.0,
        slowest=0.0,
        # One thread reads ahead of an accelerator (arkasr.recognizers.inference).
        data=_waits(hearing, computing, 1 if device.launches_ahead else 0),
        rounds=1,
        micro_batches=cluster.devices,
        devices=cluster.devices,
        audio=cluster.devices * batch.audio * (1 - assumed.padding),
        tokens=cluster.devices * batch.utterances * batch.tokens,
        steps=None,
        workers_needed=_workers_needed(hearing, computing),
        memory=held,
        peak=sum(held.values()),
        checkpoint=0.0,
    )


def _phases_of(
    stage: TrainingStage, student: Size, teacher: Size | None, batch: Batch, passes: float, *, drafted: bool
) -> dict[str, Work]:
    settings = stage.optimization
    mixed, checkpointing = settings.mixed_precision != "no", settings.activation_checkpointing
    if isinstance(stage, CtcStageSettings):
        return work.warmed_up(student, batch, mixed=mixed, checkpointing=checkpointing)
    if not isinstance(stage, OpdStageSettings):
        return work.supervised(student, batch, mixed=mixed, checkpointing=checkpointing)
    return work.distilled(student, teacher, batch, passes, drafted=drafted, mixed=mixed, checkpointing=checkpointing)


def _held(
    stage: TrainingStage, student: Size, teacher: Size | None, batch: Batch, *, shares: int, tiles: bool
) -> dict[str, float]:
    settings = stage.optimization
    mixed = settings.mixed_precision != "no"
    held = memory.student_memory(student, shares=shares, mixed=mixed)
    held["activations"] = memory.kept_for_backward(
        student,
        batch,
        mixed=mixed,
        checkpointing=settings.activation_checkpointing,
        decoder=not isinstance(stage, CtcStageSettings),
    )
    if not isinstance(stage, OpdStageSettings):
        scored = batch
        if isinstance(stage, CtcStageSettings):
            scored = replace(batch, tokens=batch.seconds * student.audio_tokens_per_second)
        held["scores"] = memory.cross_entropy_scores(student, scored)
        return held
    held["scores"] = memory.TILE_BYTES if tiles else 0.0
    if teacher is not None:
        # Of offloaded weights the head stays for the comparison.
        held["teacher"] = 4.0 * (teacher.vocabulary * teacher.width if stage.offload_teacher else teacher.parameters)
        held["scores"] += memory.passing(teacher, batch, mixed=mixed)
    held["cache"] = memory.cache(student, batch, mixed=mixed)
    moments = [held]
    # Before the backward pass, when the decoder has kept nothing for it yet:
    earlier = held | {
        "activations": memory.kept_for_backward(
            student, batch, mixed=mixed, checkpointing=settings.activation_checkpointing, decoder=False
        )
    }
    if shares > 1:  # all weights are gathered while the student writes
        gathered = memory.student_memory(student, shares=shares, mixed=mixed, whole=True)
        moments.append(earlier | gathered | {"scores": 0.0})
    if teacher is not None and stage.offload_teacher:  # all of the teacher is there while it reads
        moments.append(earlier | {"teacher": 4.0 * teacher.parameters})
    return max(moments, key=lambda items: sum(items.values()))


def _links(student: Size, settings: OptimizationSettings, cluster: Cluster, kind: str) -> float:
    if settings.sharding == "none":
        return all_reduce_seconds(student.parameters, cluster.device, cluster.devices)
    return sharded_seconds(
        student.parameters,
        student.encoder.layers + student.decoder.layers,
        cluster.device,
        cluster.devices,
        gathers=3 if kind == "opd" else 2,
        number_bytes=2 if settings.mixed_precision != "no" else 4,
    )


def _update_seconds(student: Size, shares: int, device: Device) -> float:
    reading = device.optimizer_bytes * student.parameters / shares / (device.bandwidth * device.shares.bandwidth)
    calling = device.update_seconds * (student.encoder.layers + student.decoder.layers)
    return max(reading, calling) if device.launches_ahead else reading + calling


def _waits(hearing: float, computing: float, workers: int) -> float:
    """Seconds a micro-batch waits for features that one core needs `hearing` seconds for."""
    return max(hearing / workers - computing, 0.0) if workers else hearing


def _workers_needed(hearing: float, computing: float) -> int:
    return max(-int(-hearing // computing), 1)


def is_served(recipe: Recipe, stage: OpdStageSettings) -> bool:
    """Whether the teacher scores on servers, which other devices carry."""
    model = recipe.models.get(stage.teacher)
    return model is not None and model.served is not None


def _has_drafts(recipe: Recipe, stage: OpdStageSettings) -> bool:
    """Whether an utterance that is heard for the first time has a text that is tried first."""
    if stage.drafts is not None:
        return True
    heard = recipe.sets.get(stage.train)
    return heard is None or heard.labels == "given"
