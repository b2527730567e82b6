"""What a recipe file may say. Parsing is strict; cross-references are checked before anything runs."""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from arkasr.data.corpora.synthetic import SyntheticCorpusConfig
from arkasr.data.languages import canonical_language
from arkasr.data.streams.dataset_source import DatasetSource
from arkasr.evaluate.normalize import get_profile
from arkasr.recipe.continuation import check_continuation
from arkasr.recipe.presets import check_preset
from arkasr.settings import Settings
from arkasr.train.settings import (
    AugmentationSettings,
    EngineSettings,
    ObjectiveSettings,
    OptimizationSettings,
)


def first_repeated(values: Sequence[Hashable]) -> Any:
    """The first value that occurs twice; None when all differ."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


class CorpusSettings(Settings):
    """Where manifests named by a set are.

    Attributes:
        synthetic: build (once, into the cache) the built-in speech with this configuration.
        folder: or take a folder of manifests, relative to the working directory.
    """

    synthetic: SyntheticCorpusConfig | None = None
    folder: str | None = None


class SetSettings(Settings):
    """A set of utterances.

    Attributes:
        manifest: file in the corpus folder, or an absolute path.
        dataset: or a dataset that is streamed; only what a stage trains on can be.
        language: keep the utterances of this language only; None = all.
        max_seconds: leave out longer utterances; None = keep all.
        shuffle: seed of a shuffle before anything is taken; None = manifest order.
        first: take the first so many; None = all.
        labels: `given` or `withheld`. Withheld text is removed as the set is read.
    """

    manifest: str | None = None
    dataset: DatasetSource | None = None
    language: str | None = None
    max_seconds: float | None = Field(default=None, gt=0)
    shuffle: int | None = None
    first: int | None = Field(default=None, ge=1)
    labels: Literal["given", "withheld"] = "given"

    @model_validator(mode="after")
    def _one_source(self) -> "SetSettings":
        if (self.manifest is None) == (self.dataset is None):
            raise ValueError("give either `manifest` or `dataset`")
        if self.dataset is not None:
            for key in ("language", "shuffle", "first"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key}: a streamed dataset is not chosen from; leave it out, or take a manifest")
        return self


class TokenizerSettings(Settings):
    """The base vocabulary of models built from nothing.

    Attributes:
        texts: the set whose labels it is trained on.
        vocab_size: tokens, the 256 single bytes among them.
    """

    texts: str
    vocab_size: int = Field(ge=256)


class ServedSettings(Settings):
    """Servers at which a model scores as a teacher (docs/teachers.md).

    Attributes:
        urls: of vLLM servers that all serve the model.
        model: the name that they serve it under; None = whatever they serve.
        scores: `named`: the scores of the tokens that the student proposes are asked for by name, which is exact.
            `best`: the best tokens only, from any vLLM; what is not among them shares evenly what they leave.
        best_tokens: with `scores: best`, how many are asked for.
        weights: whether `pretrained` has the weights, so that the servers' scores are compared with the model's own
            before the first step. False where it has config and processor only: servers are then compared with the
            first of them.
        tolerance: largest difference of a log-probability, in nats, in that comparison. The default is for servers that
            compute in float32.
        in_flight: most requests that a training process has at a server at a time.
        timeout_seconds: in which a request must be answered.
        patience_seconds: without an answer from any server, after which the run stops.
    """

    urls: list[str] = Field(min_length=1)
    model: str | None = None
    scores: Literal["named", "best"] = "named"
    best_tokens: int = Field(default=256, ge=1)
    weights: bool = True
    tolerance: float = Field(default=1e-3, gt=0)
    in_flight: int = Field(default=8, ge=1)
    timeout_seconds: float = Field(default=120.0, gt=0)
    patience_seconds: float = Field(default=1800.0, gt=0)

    @field_validator("urls")
    @classmethod
    def _are_addresses(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url!r} is no address of a server; give one like http://host:8000")
        return urls


class ModelSettings(Settings):
    """A starting point: a preset with random weights, or a trained model.

    Attributes:
        preset: sizes of a model built from nothing.
        sizes: config fields that differ from the preset.
        pretrained: a folder or a hub name.
        revision: commit, tag or branch of a hub name.
        served: where the model scores when it is the teacher of an OPD stage; None = in the training process.
    """

    preset: str | None = None
    sizes: dict[str, Any] = Field(default_factory=dict)
    pretrained: str | None = None
    revision: str | None = None
    served: ServedSettings | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelSettings":
        if (self.preset is None) == (self.pretrained is None):
            raise ValueError("give either `preset` or `pretrained`")
        if self.preset is not None:
            check_preset(self.preset, self.sizes)
        elif self.sizes:
            raise ValueError("sizes: change a preset only; a pretrained model has its own")
        if self.served is not None and self.pretrained is None:
            raise ValueError("served: give the model's folder or hub name as `pretrained`, for its processor")
        return self


class StageSettings(Settings):
    """What every stage says.

    Attributes:
        start: the model or the stage whose weights it starts from.
        once: run for the first seed only and share the result among all seeds.
    """

    start: str
    once: bool = False


class TrainingStageSettings(StageSettings):
    """A stage that changes weights.

    Attributes:
        train: the set, or the label stage, that is heard.
        dev: the set that is looked at during training.
        continues: go on where the stage called `start` has ended, as if the two were one: one warm-up and one decay
            over the steps of both, the same optimizer state, the next batches. Else both begin anew.
        data_order: name of the shuffle and of the augmentation. Stages that give the same name hear a set in the same
            order, changed alike; None = the stage's own name, and so an order of its own.
        optimization: how.
    """

    train: str
    dev: str | None = None
    continues: bool = False
    data_order: str | None = Field(default=None, min_length=1)
    optimization: OptimizationSettings


class CtcStageSettings(TrainingStageSettings):
    """Warm start of the audio encoder."""

    kind: Literal["ctc"]
    augmentation: AugmentationSettings | None = None


class SftStageSettings(TrainingStageSettings):
    """Supervised fine-tuning."""

    kind: Literal["sft"]
    augmentation: AugmentationSettings | None = None


class OpdStageSettings(TrainingStageSettings):
    """On-policy distillation.

    Attributes:
        teacher: the stage or model that scores.
        objective: the loss.
        augmentation: of what student and teacher hear; both hear the same.
        drafts: the set, or the label stage, whose texts are tried first when the student writes; they spare time and
            change nothing else. None = the texts of `train`, where it has any.
        calibration_batches: micro-batches whose support is measured before the first step.
        offload_teacher: keep the weights of a teacher in the training process in main memory while it is not asked.
    """

    kind: Literal["opd"]
    teacher: str
    offload_teacher: bool = False
    objective: ObjectiveSettings = ObjectiveSettings()
    augmentation: AugmentationSettings | None = None
    drafts: str | None = None
    calibration_batches: int = Field(default=8, ge=1)


class LabelStageSettings(StageSettings):
    """The teacher writes labels; `start` is the teacher.

    Attributes:
        audio: the set that is labelled.
        max_new_tokens: cap on the tokens of a label.
        batch_seconds: audio seconds decoded at once.
        decoding: what writes them.
        drop_failures: leave out what cannot be right; False is for trials with a teacher that cannot write yet.
    """

    kind: Literal["label"]
    audio: str
    drop_failures: bool = True
    max_new_tokens: int = Field(default=256, ge=1)
    batch_seconds: float = Field(default=120.0, gt=0)
    decoding: EngineSettings = EngineSettings()


AnyStageSettings = Annotated[
    CtcStageSettings | SftStageSettings | OpdStageSettings | LabelStageSettings, Field(discriminator="kind")
]


class EvaluationSettings(Settings):
    """How variants are judged.

    Attributes:
        sets: test sets, in the order of the table's columns.
        normalizer: profile by language, `default` for the others.
        max_new_tokens: cap on the tokens of a transcript.
        batch_seconds: audio seconds decoded at once.
        comparisons: pairs of variants that are tested against each other, pooled over all sets and set by set.
        samples: bootstrap and permutation samples.
        resample: what intervals and tests draw: `utterance`, within each set, or `speaker`, across all sets.
    """

    sets: list[str] = Field(default_factory=list)
    normalizer: dict[str, str] = Field(default_factory=lambda: {"default": "basic"})
    max_new_tokens: int = Field(default=256, ge=1)
    batch_seconds: float = Field(default=120.0, gt=0)
    comparisons: list[tuple[str, str]] = Field(default_factory=list)
    samples: int = Field(default=10_000, ge=100)
    resample: Literal["utterance", "speaker"] = "utterance"

    @model_validator(mode="after")
    def _consistent(self) -> "EvaluationSettings":
        if "default" not in self.normalizer:
            raise ValueError("normalizer: give a profile for `default`, the languages not named")
        for profile in self.normalizer.values():
            get_profile(profile)
        if repeated := first_repeated(self.sets):
            raise ValueError(f"sets: {repeated!r} stands there twice")
        return self

    @field_validator("normalizer")
    @classmethod
    def _canonical(cls, profiles: dict[str, str]) -> dict[str, str]:
        return {
            language if language == "default" else canonical_language(language): profile
            for language, profile in profiles.items()
        }


class Recipe(Settings):
    """A whole experiment.

    Attributes:
        name: of the run's folder.
        description: one paragraph for the report.
        seeds: every stage runs once for each, unless it says `once`.
        corpus: where manifests are.
        sets: by name.
        tokenizer: base vocabulary of models built from nothing.
        models: starting points by name.
        stages: by name, in the order in which they run.
        variants: what is compared: variant name to stage (or model) name.
        evaluation: test sets, normalisers and comparisons.
    """

    name: str
    description: str = ""
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    corpus: CorpusSettings = CorpusSettings()
    sets: dict[str, SetSettings]
    tokenizer: TokenizerSettings | None = None
    models: dict[str, ModelSettings]
    stages: dict[str, AnyStageSettings]
    variants: dict[str, str] = Field(default_factory=dict)
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _references_exist(self) -> "Recipe":
        if repeated := first_repeated(self.seeds):
            raise ValueError(f"seeds: {repeated} stands there twice")
        known: dict[str, set[str]] = {"set": set(self.sets), "stage": set(self.models), "labels": set()}
        for name, stage in self.stages.items():
            if name in self.models:
                raise ValueError(f"stages.{name}: a model has that name too; rename one")
            for key, kinds, value in _references(stage):
                if not any(value in known[kind] for kind in kinds):
                    raise ValueError(
                        f"stages.{name}.{key}: there is no {' or '.join(kinds)} {value!r} above it in this recipe"
                    )
                if key != "train" and value in self.sets:
                    self._refuse_streamed(f"stages.{name}.{key}", value)
            if isinstance(stage, TrainingStageSettings):
                check_continuation(self, name)
                if stage.data_order in self.stages and stage.data_order != name:
                    raise ValueError(
                        f"stages.{name}.data_order: the stage {stage.data_order!r} has that name and so that order "
                        "already; give the order a name that is no stage's"
                    )
            if isinstance(stage, OpdStageSettings):
                self._check_served(f"stages.{name}", stage)
            heard = self.sets.get(stage.train) if isinstance(stage, CtcStageSettings | SftStageSettings) else None
            if heard is not None and heard.labels == "withheld":
                raise ValueError(
                    f"stages.{name}.train: the set's labels are withheld, and {stage.kind} learns from labels"
                )
            known["labels" if stage.kind == "label" else "stage"].add(name)
        for variant, name in self.variants.items():
            if name not in known["stage"]:
                raise ValueError(f"variants.{variant}: there is no stage {name!r}")
        for name in self.evaluation.sets:
            if name not in known["set"]:
                raise ValueError(f"evaluation.sets: there is no set {name!r}")
            self._refuse_streamed("evaluation.sets", name)
        for pair in self.evaluation.comparisons:
            for name in pair:
                if name not in self.variants:
                    raise ValueError(f"evaluation.comparisons: there is no variant {name!r}")
        precisions = {
            stage.optimization.mixed_precision
            for stage in self.stages.values()
            if isinstance(stage, TrainingStageSettings)
        }
        if self.tokenizer is not None and self.tokenizer.texts not in known["set"]:
            raise ValueError(f"tokenizer.texts: there is no set {self.tokenizer.texts!r}")
        if self.tokenizer is not None:
            self._refuse_streamed("tokenizer.texts", self.tokenizer.texts)
        if len(precisions) > 1:
            raise ValueError(f"stages: one run has one mixed_precision, found {', '.join(sorted(precisions))}")
        if any(model.preset for model in self.models.values()) and self.tokenizer is None:
            raise ValueError("tokenizer: a model built from a preset needs one")
        return self

    def _refuse_streamed(self, place: str, name: str) -> None:
        if self.sets[name].dataset is not None:
            raise ValueError(f"{place}: the set {name!r} is streamed, which only `train` can be; take a manifest")

    def _check_served(self, place: str, stage: OpdStageSettings) -> None:
        teacher, objective = self.models.get(stage.teacher), stage.objective
        if teacher is None or teacher.served is None:
            return
        wanted = {
            "objective.support": objective.support == "full",
            "objective.tail": objective.tail == "bucket",
            "objective.upstream_scores": objective.upstream_scores,
            "offload_teacher": stage.offload_teacher,
            "augmentation": stage.augmentation is not None,
        }
        for key in (key for key, is_wanted in wanted.items() if is_wanted):
            raise ValueError(
                f"{place}.{key}: a served teacher hears the recording as it is, gives the scores of some tokens, and "
                f"has no weights here; leave it out, or take `served` out of models.{stage.teacher}"
            )

    def chain(self, name: str) -> list[str]:
        """The training stages behind a stage's weights, first to last, itself included."""
        stages = []
        while name in self.stages:
            stages.append(name)
            name = self.stages[name].start
        return stages[::-1]

    def origin(self, name: str) -> str:
        """The model that a stage's weights come from."""
        while name in self.stages:
            name = self.stages[name].start
        return name

    def updates(self, name: str) -> int:
        """Optimizer steps behind a stage's weights."""
        chain = [self.stages[stage] for stage in self.chain(name)]
        return sum(stage.optimization.steps for stage in chain if isinstance(stage, TrainingStageSettings))


def _references(stage: Any) -> Iterator[tuple[str, tuple[str, ...], str]]:
    yield "start", ("stage",), stage.start
    if isinstance(stage, TrainingStageSettings):
        yield "train", ("set", "labels"), stage.train
        if stage.dev is not None:
            yield "dev", ("set",), stage.dev
    if isinstance(stage, OpdStageSettings):
        yield "teacher", ("stage",), stage.teacher
        if stage.drafts is not None:
            yield "drafts", ("set", "labels"), stage.drafts
    if isinstance(stage, LabelStageSettings):
        yield "audio", ("set",), stage.audio
