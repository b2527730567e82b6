"""The keys of a recipe's stages, one class for each kind."""

from typing import Annotated, Literal

from pydantic import Field

from arkasr.settings import Settings
from arkasr.train.settings import AugmentationSettings, EngineSettings, ObjectiveSettings, OptimizationSettings


class StageSettings(Settings):
    """Keys of every stage."""

    start: str
    """Model, or earlier stage, whose weights the stage starts from. In a label stage: the teacher."""

    once: bool = False
    """Run for the first seed only. All seeds share the result."""


class TrainingStageSettings(StageSettings):
    """Keys of every stage that trains: kinds `ctc`, `sft` and `opd`."""

    train: str
    """Set, or earlier label stage, that the stage trains on."""

    dev: str | None = None
    """Set that is transcribed during training, for the error rate in `metrics.jsonl`. See `evaluate_every`. It changes
    no weights. A `ctc` stage ignores it."""

    continues: bool = False
    """The stage and the one named by `start` share one schedule: one warm-up and one decay over the steps of both, the
    same optimizer states, the next batches. Otherwise all of these start anew. For `sft` and `opd`, after `sft` or
    `opd`. Both stages need the same `optimization`, except `steps` and what only costs time or memory. Not with
    `data_order`."""

    data_order: str | None = Field(default=None, min_length=1)
    """Seeds shuffle and augmentation, together with the run's seed. Stages with the same `data_order` see a set in the
    same order with the same augmentation. `null`: the stage's name. The name of another stage is refused."""

    optimization: OptimizationSettings
    """How the loss is minimised."""


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
    """Model, or earlier stage, that scores the rollouts."""

    offload_teacher: bool = False
    """Keep the teacher's weights in main memory, and on the device only while it scores. Saves device memory and costs
    one copy of the weights per micro-batch. Not with a served teacher."""

    objective: ObjectiveSettings = ObjectiveSettings()
    """The loss and the rollouts."""

    augmentation: AugmentationSettings | None = None
    """Changes of the features, the same for student and teacher. `null`: none. Not with a served teacher."""

    drafts: str | None = None
    """Set, or earlier label stage, whose texts speed up the rollouts: the student verifies a draft in one pass. In
    float32 they do not change the rollouts. `null`: the texts of `train`, if it has any. vLLM does not use them."""

    calibration_batches: int = Field(default=8, ge=1)
    """Micro-batches on which the support is measured before the first step."""


class LabelStageSettings(StageSettings):
    """A teacher writes labels for a set. A stage that trains on them names this stage as `train`."""

    kind: Literal["label"]
    """Kind of the stage."""

    audio: str
    """Set to label. Its own text is not used. Not a streamed set."""

    drop_failures: bool = True
    """Drop labels that cannot be right, such as empty or looping ones. `false` is for trials with an untrained
    teacher."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Most tokens of a label."""

    batch_seconds: float = Field(default=120.0, gt=0)
    """Most audio decoded at once, in seconds."""

    decoding: EngineSettings = EngineSettings()
    """What decodes the labels."""


AnyStageSettings = Annotated[
    CtcStageSettings | SftStageSettings | OpdStageSettings | LabelStageSettings, Field(discriminator="kind")
]
