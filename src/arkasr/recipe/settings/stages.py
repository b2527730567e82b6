"""The keys of a recipe's stages, one class for each kind."""

from typing import Annotated, Literal

from pydantic import Field

from arkasr.data.degradation.settings import DegradationSettings
from arkasr.settings import Settings
from arkasr.train.settings import AugmentationSettings, EngineSettings, ObjectiveSettings, OptimizationSettings


class StageSettings(Settings):
    """Keys of every stage."""

    start: str
    """Model or earlier stage. The stage starts from its weights. In a `label` stage: the model that writes the
    labels."""

    once: bool = False
    """`true`: run for the first seed only. All seeds share the result."""


class TrainingStageSettings(StageSettings):
    """Keys of every stage that trains: kinds `ctc`, `sft` and `opd`."""

    train: str
    """Set or earlier label stage. The stage trains on it."""

    dev: str | None = None
    """Set that is transcribed during training, for the error rate in `metrics.jsonl`. `evaluate_every` says how often.
    The evaluation does not change the weights. A `ctc` stage ignores this key."""

    continues: bool = False
    """`true`: the stage continues the stage that `start` names. Both share one warm-up, one decay, the optimizer states
    and the data order. `false`: schedule, optimizer states and data order start anew. An `sft` or `opd` stage can
    continue an `sft` or `opd` stage. The two `optimization` tables must be equal, except for `steps`, `evaluate_every`,
    `checkpoint_every`, `keep_checkpoints`, `data_workers`, `activation_checkpointing`, `sharding`, `max_skipped_steps`
    and `max_quarantined_share`. `once` and the lowest `degradation.speed.factor` must be equal, too. Not with
    `data_order`."""

    data_order: str | None = Field(default=None, min_length=1)
    """This name and the run's seed determine the shuffle, the augmentation and the degradation. Stages with the same
    `data_order` see a set in the same order with the same augmentation and degradation. `null`: the stage's name. The
    value must not be the name of another stage, because that is the other stage's default order."""

    degradation: DegradationSettings | None = None
    """Changes of the recording that the student hears. In OPD, the teacher hears the recording as it is. `null`:
    none."""

    optimization: OptimizationSettings
    """How the loss is minimised."""

    @property
    def background_sets(self) -> dict[str, str]:
        """Sets whose audio is mixed into what the student hears, by key."""
        sets = self.degradation.sets if self.degradation is not None else {}
        return {f"degradation.{key}": name for key, name in sets.items()}

    @property
    def lengthening(self) -> float:
        """Largest factor by which the student hears an utterance longer than it is."""
        return self.degradation.lengthening if self.degradation is not None else 1.0


class CtcStageSettings(TrainingStageSettings):
    """Train the audio encoder with a CTC loss before the decoder is trained."""

    kind: Literal["ctc"]
    """Kind of the stage."""

    augmentation: AugmentationSettings | None = None
    """Changes of the features. `null`: none."""


class SftStageSettings(TrainingStageSettings):
    """Supervised fine-tuning on labels."""

    kind: Literal["sft"]
    """Kind of the stage."""

    augmentation: AugmentationSettings | None = None
    """Changes of the features and of the tokens that the decoder reads. `null`: none."""


class OpdStageSettings(TrainingStageSettings):
    """On-policy distillation: the student writes a transcript, and the teacher scores it. Needs no labels."""

    kind: Literal["opd"]
    """Kind of the stage."""

    teacher: str
    """Model or earlier stage. It scores the rollouts."""

    offload_teacher: bool = False
    """`true`: the teacher's weights are in main memory, and on the device only while the teacher scores. This saves
    device memory and takes the time of copying the weights to the device and back once per micro-batch. Not with a
    served teacher."""

    teacher_cache: Literal["audio", "states"] | None = None
    """Keep answers of the teacher on disk, in the run's folder, until the run is finished (docs/teachers.md). `audio`:
    its embeddings of every recording. `states`: also its hidden states for the latest rollout of every utterance, which
    are used again if the next rollout is the same. `null`: nothing. Not with a served teacher, and not with
    augmentation that changes every recording."""

    teacher_cache_gib: float = Field(default=8.0, gt=0)
    """Maximum size of this cache, in GiB, for all processes together. A full cache keeps what it has and takes nothing
    new. Needs `teacher_cache`."""

    objective: ObjectiveSettings = ObjectiveSettings()
    """The loss and the rollouts."""

    augmentation: AugmentationSettings | None = None
    """Changes of the features. Student and teacher get the same changes, each in its own features. `null`: none. Not
    with a served teacher."""

    drafts: str | None = None
    """Set or earlier label stage. Its texts are drafts that speed up the rollouts: the student verifies many draft
    tokens in one pass. In float32 drafts do not change the rollouts. `null`: the texts of `train`, if it has any. vLLM
    does not use drafts. With `objective.label_weight`, the student also learns these texts."""

    calibration_batches: int = Field(default=8, ge=1)
    """Micro-batches on which the support is measured before the first step."""


class LabelStageSettings(StageSettings):
    """A teacher writes labels for a set. A stage that trains on them names this stage as `train`."""

    kind: Literal["label"]
    """Kind of the stage."""

    audio: str
    """Set to label. The text of the set is not used. Not a streamed set."""

    drop_failures: bool = True
    """`true`: drop labels that cannot be right, for example empty or looping labels. `false` is for trials with an
    untrained teacher."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Maximum tokens of a label."""

    batch_seconds: float = Field(default=120.0, gt=0)
    """Maximum audio that is decoded at once, in seconds."""

    decoding: EngineSettings = EngineSettings()
    """What decodes the labels."""


AnyStageSettings = Annotated[
    CtcStageSettings | SftStageSettings | OpdStageSettings | LabelStageSettings, Field(discriminator="kind")
]
