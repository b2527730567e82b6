"""What a recipe may say about how a stage is optimised. Every field is a key of the recipe file."""

from typing import Literal

from pydantic import Field, model_validator

from arkasr.settings import Settings


class OptimizationSettings(Settings):
    """How the loss of a stage is minimised.

    Attributes:
        steps: optimizer steps.
        batch_seconds: audio seconds in a micro-batch, padding included.
        batch_utterances: most utterances in a micro-batch; None = no bound.
        batch_tokens: transcript tokens in a micro-batch, padding included, where there are labels; None = no bound.
        accumulation: micro-batches per optimizer step, of all processes together: the same recipe takes the same
            steps on one process and on many; more processes than these would have nothing to do.
        optimizer: `adamw` (the paper), or `muon`: orthogonalised momentum for the weight matrices of the layers and
            AdamW for everything else, which learns from nothing in a third of the steps.
        learning_rate: AdamW's highest one.
        matrix_learning_rate: Muon's highest one; follows the same schedule.
        warmup_steps: linear rise from zero.
        schedule: what follows the rise: `constant`, or `linear`/`cosine` decay to `final_rate` of the highest.
        final_rate: share of `learning_rate` that a decay would reach one step after the last.
        betas: AdamW.
        weight_decay: AdamW, on all parameters.
        max_grad_norm: gradients are scaled down to this norm.
        mixed_precision: `no` (float32), `bf16` or `fp16`.
        activation_checkpointing: keep only the input of every layer and compute the rest once more in the backward
            pass: far less memory for about a third more time.
        evaluate_every: steps between two looks at the development set; 0 = only at the end.
        checkpoint_every: steps between two checkpoints; 0 = only at the end.
        keep_checkpoints: the newest so many stay.
        data_workers: processes that decode audio and compute features; 0 = in the training process.
        sharding: where several processes train, `none`: each has a whole copy of weights and optimizer (DDP), or
            `full`: each has a share of them (FSDP2).
        max_skipped_steps: a step whose loss or gradient is not finite is skipped; so many in a row end the run.
        max_quarantined_share: utterances that cannot be heard are left out; more than this share of the set ends the
            run.
    """

    steps: int = Field(ge=0)
    batch_seconds: float = Field(gt=0)
    batch_utterances: int | None = Field(default=None, ge=1)
    batch_tokens: int | None = Field(default=None, ge=1)
    accumulation: int = Field(default=1, ge=1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(gt=0)
    matrix_learning_rate: float = Field(default=0.01, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    final_rate: float = Field(default=0.0, ge=0, le=1)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.005, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    activation_checkpointing: bool = False
    evaluate_every: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=0, ge=0)
    keep_checkpoints: int = Field(default=2, ge=1)
    data_workers: int = Field(default=0, ge=0)
    sharding: Literal["none", "full"] = "none"
    max_skipped_steps: int = Field(default=10, ge=1)
    max_quarantined_share: float = Field(default=0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _gradients_are_scaled_for_one_optimizer_of_whole_weights(self) -> "OptimizationSettings":
        if self.optimizer == "muon" and self.mixed_precision == "fp16":
            raise ValueError("optimizer: muon runs beside AdamW, and fp16 scales gradients for one only; take bf16")
        if self.sharding == "full" and self.mixed_precision == "fp16":
            raise ValueError("sharding: gradients of shares are not scaled, as fp16 needs it; take bf16")
        return self


class AugmentationSettings(Settings):
    """Random changes of the log-mel features, and noise in what the decoder reads.

    Speed perturbation (Ko and others, 2015) and vocal tract length perturbation (Jaitly and Hinton, 2013), both by
    interpolating features; then SpecAugment (arXiv 1904.08779).

    Masked stretches and bands take the clip's mean value. Noise in the tokens that the decoder is shown (never in those
    that it is to write) keeps a decoder with little text from reciting instead of listening.

    Attributes:
        time_stretch: largest change of a clip's length, as a share of it; 0 = none.
        frequency_warp: largest change of the mel axis, as a share of it; 0 = none.
        time_masks: masked stretches per ten seconds of audio, at least one.
        time_width: longest stretch, in mel frames (10 ms).
        frequency_masks: masked bands per clip.
        frequency_width: widest band, in mel bins.
        join_share: SFT and OPD: share of the utterances that are followed by another one of the batch, so that what
            comes next must be heard and cannot be known by heart. Batches then hold more than `batch_seconds`, and
            OPD needs a cap for two transcripts (`objective.max_new_tokens`).
        token_noise: SFT: share of the transcript's tokens that are shown to the decoder as random ones of the batch.
    """

    time_stretch: float = Field(default=0.0, ge=0, lt=0.5)
    frequency_warp: float = Field(default=0.0, ge=0, lt=0.5)
    time_masks: int = Field(default=2, ge=0)
    time_width: int = Field(default=20, ge=1)
    frequency_masks: int = Field(default=2, ge=0)
    frequency_width: int = Field(default=10, ge=1)
    join_share: float = Field(default=0.0, ge=0, le=1)
    token_noise: float = Field(default=0.0, ge=0, lt=1)


class EngineSettings(Settings):
    """What writes transcripts.

    Attributes:
        engine: `own`, the model in this process; or `vllm`, processes beside it that have its weights, for models and
            batches where vLLM's speed outweighs handing them over.
        dtype: vllm: `float32`, `bfloat16` or `float16`; None = what this process computes in.
        cache_gib: vllm: memory for keys and values, GiB.
    """

    engine: Literal["own", "vllm"] = "own"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    cache_gib: float = Field(default=4.0, gt=0)


class RolloutSettings(EngineSettings):
    """What writes the student's rollouts.

    Attributes:
        staleness: vllm: steps ahead that rollouts are begun, and so updates that the weights they are written with are
            behind the student's. 0 = every rollout is the student's of now, as with `own`, and the trainer waits;
            1 = the next step's rollouts are written while this one is trained.
    """

    staleness: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _own_rollouts_are_never_behind(self) -> "RolloutSettings":
        if self.engine == "own" and self.staleness:
            raise ValueError("staleness: the student's own rollouts are never behind; it is for `engine: vllm`")
        return self


class ObjectiveSettings(Settings):
    """The distillation objective and its rollouts (docs/objective.md).

    Attributes:
        top_k: tokens that teacher and student each contribute to the support.
        temperature: softens both distributions on the support.
        divergence: `forward_kl` (the paper), `reverse_kl` or `jsd`.
        beta: weight of the teacher in the mixture of `jsd`.
        support: `union` (the paper), `teacher`, `student`, `intersection` or `full`.
        tail: `none` (the paper), or `bucket`: all tokens outside the support form one more class.
        upstream_scores: mix raw logits and log-probabilities, as the published code does.
        max_new_tokens: cap on the tokens of a rollout.
        rollouts: what generates the rollouts.
        rollout_temperature: 0 = greedy rollouts (the paper); above 0, tokens are sampled at this temperature.
        min_mapped_share: the run stops if the teacher can score less than this share of the rollout tokens.
        looping: `mask` leaves the loops of a rollout out of the loss; `keep` (the paper) does not.
    """

    top_k: int = Field(default=32, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    beta: float = Field(default=0.5, gt=0, lt=1)
    support: Literal["union", "teacher", "student", "intersection", "full"] = "union"
    tail: Literal["none", "bucket"] = "none"
    upstream_scores: bool = False
    max_new_tokens: int = Field(default=256, ge=1)
    rollouts: RolloutSettings = RolloutSettings()
    rollout_temperature: float = Field(default=0.0, ge=0)
    min_mapped_share: float = Field(default=0.5, ge=0, le=1)
    looping: Literal["mask", "keep"] = "mask"
