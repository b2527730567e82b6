"""The keys of a recipe that say how a stage is trained: optimizer, augmentation, rollouts and the OPD objective.

docs/recipe.md is generated from the docstrings below the fields.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from arkasr.settings import Settings, first_repeated


class OptimizationSettings(Settings):
    """How the loss of a stage is minimised."""

    steps: int = Field(ge=0)
    """Number of optimizer steps."""

    batch_seconds: float = Field(gt=0)
    """Maximum audio in a micro-batch, in seconds, padding included. No utterance of the set may be longer."""

    batch_utterances: int | None = Field(default=None, ge=1)
    """Maximum number of utterances in a micro-batch. `null`: no limit."""

    batch_tokens: int | None = Field(default=None, ge=1)
    """Maximum tokens of the set's texts in a micro-batch, padding included. A longer text gets a micro-batch of its
    own. Of no use for a set without texts. `null`: no limit."""

    accumulation: int = Field(default=1, ge=1)
    """Micro-batches per optimizer step, of all processes together. The number of processes therefore does not change
    the steps. Give at least the number of processes: a process without a micro-batch computes on silence, which does
    not count."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """`adamw`: as in the paper. `muon`: orthogonalised momentum for the weight matrices of linear layers, AdamW for all
    other weights. From random weights it needs a third of AdamW's steps. Not with `mixed_precision: fp16`."""

    learning_rate: float = Field(gt=0)
    """Highest learning rate of AdamW."""

    matrix_learning_rate: float = Field(default=0.01, gt=0)
    """Highest learning rate of Muon. It follows the same schedule. Needs `optimizer: muon`."""

    learning_rates: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Highest learning rate of a part of the model, in place of `learning_rate`. It follows the same schedule. `NAME`
    is as in `freeze`. With `optimizer: muon`, the part's matrices have the rate `matrix_learning_rate` times the
    part's rate divided by `learning_rate`."""

    freeze: list[str] = Field(default=[])
    """Parts of the model that are not trained: `encoder`, `adapter` (from the encoder to the decoder's width),
    `decoder`, and `embeddings` (token embeddings and output head). They have no gradients and no optimizer states. A
    `ctc` stage never trains the decoder."""

    warmup_steps: int = Field(default=0, ge=0)
    """Number of steps in which the learning rate rises linearly from 0 to the highest rate."""

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up. `constant`: no decay. `linear`, `cosine`: a decay to `final_rate`."""

    final_rate: float = Field(default=0.0, ge=0, le=1)
    """The rate at the end of the decay, as a share of the highest rate. It would be reached one step after
    the last step. Needs `schedule: linear` or `cosine`."""

    betas: tuple[float, float] = (0.9, 0.95)
    """β1 and β2 of AdamW."""

    weight_decay: float = Field(default=0.005, ge=0)
    """Decoupled weight decay of AdamW and Muon, on all parameters."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients with a larger norm are scaled down to it."""

    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """`no` is float32. `fp16` needs a GPU, `optimizer: adamw` and `sharding: none`. All stages of a recipe must have
    the same value."""

    activation_checkpointing: bool = False
    """`true`: keep only the input of every layer, and compute the rest again in the backward pass. This needs far less
    memory and about a third more time."""

    evaluate_every: int = Field(default=0, ge=0)
    """Steps between two evaluations on `dev`. 0: only after the last step."""

    checkpoint_every: int = Field(default=0, ge=0)
    """Steps between two checkpoints. 0: only after the last step."""

    keep_checkpoints: int = Field(default=2, ge=1)
    """Number of checkpoints on disk. Older checkpoints are removed."""

    data_workers: int = Field(default=0, ge=0)
    """Processes that decode audio and compute features, per training process. 0: the training process does it."""

    sharding: Literal["none", "full"] = "none"
    """For several processes. `none`: each has a copy of weights and optimizer states (DDP). `full`: each has a shard of
    them (FSDP2). `full` does not work with `mixed_precision: fp16`."""

    max_skipped_steps: int = Field(default=10, ge=1)
    """A step whose loss or gradient is not finite is skipped. The run stops after this many in a row."""

    max_quarantined_share: float = Field(default=0.01, ge=0, le=1)
    """Utterances with unreadable audio are skipped and listed in `quarantine.jsonl`. The run stops if they are more
    than this share of the set."""

    @model_validator(mode="after")
    def _fp16_needs_one_optimizer_and_no_shards(self) -> "OptimizationSettings":
        if self.optimizer == "muon" and self.mixed_precision == "fp16":
            raise ValueError("optimizer: muon trains beside AdamW, and fp16 scales gradients for one only; use bf16")
        if self.sharding == "full" and self.mixed_precision == "fp16":
            raise ValueError("sharding: fp16 cannot scale the gradients of shards; use bf16")
        return self

    @model_validator(mode="after")
    def _frozen_parts_have_no_rate(self) -> "OptimizationSettings":
        if repeated := first_repeated(self.freeze):
            raise ValueError(f"freeze: {repeated!r} occurs twice; remove one")
        if frozen := next((part for part in self.freeze if part in self.learning_rates), None):
            raise ValueError(f"learning_rates.{frozen}: `freeze` names this part too; remove one of the two")
        return self


class AugmentationSettings(Settings):
    """Random changes of the log-mel features and of the tokens that the decoder reads.

    In this order: speed perturbation (Ko and others, 2015) and vocal tract length perturbation (Jaitly and Hinton,
    2013), both by interpolation of the features; then SpecAugment (arXiv 1904.08779). Masks have the clip's mean value.
    """

    time_stretch: float = Field(default=0.0, ge=0, lt=0.5)
    """Maximum change of a clip's length, as a share of the length. 0: no change."""

    frequency_warp: float = Field(default=0.0, ge=0, lt=0.5)
    """Maximum change of the mel axis, as a share of the axis. 0: no change."""

    time_masks: int = Field(default=2, ge=0)
    """Number of masked time spans per ten seconds of audio. The resulting number for a clip is rounded up."""

    time_width: int = Field(default=20, ge=1)
    """Maximum length of a masked time span, in mel frames of 10 ms. Never more than a quarter of the clip."""

    frequency_masks: int = Field(default=2, ge=0)
    """Number of masked frequency bands per clip."""

    frequency_width: int = Field(default=10, ge=1)
    """Maximum width of a masked frequency band, in mel bins."""

    join_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the utterances to which another utterance of the batch is appended, so that the decoder cannot memorise
    how a text continues. Two utterances are not joined if they differ in language, are longer together than the models
    take, or have more text than the student can write. Joined batches may be longer than `batch_seconds`. OPD needs an
    `objective.max_new_tokens` for two transcripts. For `sft` and `opd`; `ctc` ignores it."""

    token_noise: float = Field(default=0.0, ge=0, lt=1)
    """Share of the decoder's input tokens that are replaced by random tokens of the batch. The target tokens do not
    change. Without it, a decoder that is trained on little text may ignore the audio. For `sft`; `ctc` and `opd` ignore
    it."""

    def changes_of_every_clip(self) -> list[str]:
        """The keys above 0 that change every clip at random."""
        keys = ("time_stretch", "frequency_warp", "time_masks", "frequency_masks")
        return [key for key in keys if getattr(self, key)]


class EngineSettings(Settings):
    """What decodes transcripts."""

    engine: Literal["own", "vllm"] = "own"
    """`own`: the model itself decodes, in the training process. `vllm`: vLLM decodes. Each process of the run starts a
    vLLM process for this, which gets the updated weights in training. `vllm` is faster for large models and batches. It
    needs `arkasr[vllm]`."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type in which vLLM computes. `null`: the type of the training process; in a label stage float32. Needs `engine:
    vllm`."""

    cache_gib: float = Field(default=4.0, gt=0)
    """Memory of vLLM's key/value cache, in GiB. Needs `engine: vllm`."""


class RolloutSettings(EngineSettings):
    """What decodes the student's rollouts."""

    staleness: int = Field(default=0, ge=0)
    """vLLM writes the rollouts this many steps before they are used, so the weights that write them may be that many
    updates old. 0: the training process waits for every rollout. 1: vLLM decodes the next step's rollouts during this
    step. Needs `engine: vllm`."""

    @model_validator(mode="after")
    def _own_rollouts_are_never_stale(self) -> "RolloutSettings":
        if self.engine == "own" and self.staleness:
            raise ValueError("staleness: `engine: own` decodes with the current weights; set 0, or use `engine: vllm`")
        return self


class ObjectiveSettings(Settings):
    """The loss of on-policy distillation (docs/objective.md) and the rollouts on which it is computed."""

    top_k: int = Field(default=32, ge=1)
    """Each model adds its k best tokens to the support; this is k."""

    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature of both distributions on the support."""

    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """`forward_kl`: KL(teacher ‖ student), as in the paper. `reverse_kl`: KL(student ‖ teacher). `jsd`: generalised
    Jensen-Shannon divergence."""

    beta: float = Field(default=0.5, gt=0, lt=1)
    """Weight of the teacher in the mixture of `jsd`. Needs `divergence: jsd`."""

    support: Literal["union", "teacher", "student", "intersection", "full"] = "union"
    """The tokens on which the two distributions are compared. `union`: the best tokens of both models, as in the paper.
    `teacher`, `student`: the best tokens of one model. `intersection`: tokens among the best of both. `union` and
    `student` include the rollout token. `full`: every token that both models may write; not with a served teacher."""

    tail: Literal["none", "bucket"] = "none"
    """What happens to the probability outside the support. `none`: it is ignored, as in the paper. `bucket`: it is one
    more class; not with a served teacher."""

    upstream_scores: bool = False
    """`true`: mix logits and log-probabilities, as the published code does. For comparison only. Needs `tail: none`;
    not with a served teacher."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Maximum tokens of a rollout."""

    rollouts: RolloutSettings = RolloutSettings()
    """What decodes the rollouts."""

    rollout_temperature: float = Field(default=0.0, ge=0)
    """0: greedy rollouts, as in the paper. Above 0: tokens are sampled at this temperature."""

    min_paired_share: float = Field(default=0.5, ge=0, le=1)
    """Lower limit of `teacher/paired_share`, the share of rollout tokens that are paired with a teacher position. Once
    there are 200 rollout tokens, the run stops if the share of all tokens so far is below this limit."""

    unpaired: Literal["skip", "segments", "pieces"] = "skip"
    """What happens to rollout tokens without a teacher position, because the teacher splits the text differently.
    `skip`: they do not count in the loss. `segments`: stretches of them are compared by the probability of their text.
    Needs `temperature: 1`. `pieces`: the teacher's tokens are cut into the student's; for a student with shorter
    tokens. Not with a served teacher."""

    looping: Literal["mask", "keep"] = "mask"
    """What happens if a rollout repeats a phrase again and again. `mask`: the repetition does not count in the loss.
    `keep`: it counts, as in the paper."""

    rejected_below: float = Field(default=0.0, ge=0, lt=1)
    """The teacher rejects a rollout token to which it gives a lower probability than this. The token after a rejected
    one does not count in the loss. 0: every token counts, as in the paper."""

    label_weight: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Above 0: the student also learns the texts of `drafts`. The loss is then the mean over the tokens of rollouts and
    labels, and the cross-entropy of a label token is multiplied by this weight. Needs `drafts`."""

    @model_validator(mode="after")
    def _unpaired_fits_other_options(self) -> "ObjectiveSettings":
        if self.unpaired == "segments" and self.temperature != 1:
            raise ValueError("unpaired: `segments` compares probabilities at `temperature: 1`; set 1, or use `skip`")
        if self.unpaired == "pieces" and self.upstream_scores:
            raise ValueError("unpaired: `pieces` has no `upstream_scores`; remove that key, or use `skip`")
        return self
