"""The keys of a recipe that say how a stage is trained: optimizer, augmentation, rollouts and the OPD objective.

docs/recipe.md is generated from the docstrings below the fields.
"""

from typing import Literal

from pydantic import Field, model_validator

from arkasr.settings import Settings


class OptimizationSettings(Settings):
    """How the loss of a stage is minimised."""

    steps: int = Field(ge=0)
    """Number of optimizer steps."""

    batch_seconds: float = Field(gt=0)
    """Most audio in a micro-batch, in seconds, padding included. No utterance of the set may be longer."""

    batch_utterances: int | None = Field(default=None, ge=1)
    """Most utterances in a micro-batch. `null`: no limit."""

    batch_tokens: int | None = Field(default=None, ge=1)
    """Most transcript tokens in a micro-batch, padding included. `null`: no limit."""

    accumulation: int = Field(default=1, ge=1)
    """Micro-batches per optimizer step, of all processes together. The number of processes therefore does not change
    the steps. Give at least as many as there are processes; a process without a micro-batch idles."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """`adamw`: the paper's. `muon`: orthogonalised momentum for the weight matrices of linear layers, AdamW for all
    other weights. From random weights it needs a third of the steps. Not with `mixed_precision: fp16`."""

    learning_rate: float = Field(gt=0)
    """Highest learning rate of AdamW."""

    matrix_learning_rate: float = Field(default=0.01, gt=0)
    """Highest learning rate of Muon. It follows the same schedule. Needs `optimizer: muon`."""

    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the learning rate rises linearly from 0 to the highest."""

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up: `constant`, or a decay to `final_rate`."""

    final_rate: float = Field(default=0.0, ge=0, le=1)
    """Where a decay ends, as a share of the highest rate. It is reached one step after the last step. Needs `schedule:
    linear` or `cosine`."""

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
    """Keep only the input of every layer and compute the rest again in the backward pass. Needs far less memory and
    about a third more time."""

    evaluate_every: int = Field(default=0, ge=0)
    """Steps between two evaluations on `dev`. 0: only after the last step."""

    checkpoint_every: int = Field(default=0, ge=0)
    """Steps between two checkpoints. 0: only after the last step."""

    keep_checkpoints: int = Field(default=2, ge=1)
    """How many checkpoints stay on disk: the newest ones."""

    data_workers: int = Field(default=0, ge=0)
    """Processes that decode audio and compute features, per training process. 0: the training process does it."""

    sharding: Literal["none", "full"] = "none"
    """With several processes. `none`: each has a copy of weights and optimizer states (DDP). `full`: each has a shard
    of them (FSDP2). `full` not with `mixed_precision: fp16`."""

    max_skipped_steps: int = Field(default=10, ge=1)
    """A step whose loss or gradient is not finite is skipped. The run stops after this many in a row."""

    max_quarantined_share: float = Field(default=0.01, ge=0, le=1)
    """Utterances whose audio cannot be read are skipped and listed in `quarantine.jsonl`. The run stops when they are
    more than this share of the set."""

    @model_validator(mode="after")
    def _fp16_needs_one_optimizer_and_no_shards(self) -> "OptimizationSettings":
        if self.optimizer == "muon" and self.mixed_precision == "fp16":
            raise ValueError("optimizer: muon trains beside AdamW, and fp16 scales gradients for one only; use bf16")
        if self.sharding == "full" and self.mixed_precision == "fp16":
            raise ValueError("sharding: fp16 cannot scale the gradients of shards; use bf16")
        return self


class AugmentationSettings(Settings):
    """Random changes of the log-mel features and of the tokens that the decoder reads.

    In this order: speed perturbation (Ko and others, 2015) and vocal tract length perturbation (Jaitly and Hinton,
    2013), both by interpolation of the features; then SpecAugment (arXiv 1904.08779). Masks have the clip's mean value.
    """

    time_stretch: float = Field(default=0.0, ge=0, lt=0.5)
    """Largest change of a clip's length, as a share of the length. 0: none."""

    frequency_warp: float = Field(default=0.0, ge=0, lt=0.5)
    """Largest change of the mel axis, as a share of it. 0: none."""

    time_masks: int = Field(default=2, ge=0)
    """Masked time spans per ten seconds of audio, rounded up."""

    time_width: int = Field(default=20, ge=1)
    """Longest masked time span, in mel frames of 10 ms. Never more than a quarter of the clip."""

    frequency_masks: int = Field(default=2, ge=0)
    """Masked frequency bands per clip."""

    frequency_width: int = Field(default=10, ge=1)
    """Widest masked frequency band, in mel bins."""

    join_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the utterances to which another utterance of the batch is appended, so that the decoder cannot know by
    heart how a text continues. Batches then exceed `batch_seconds`, and OPD needs an `objective.max_new_tokens` for two
    transcripts. For `sft` and `opd`; `ctc` ignores it."""

    token_noise: float = Field(default=0.0, ge=0, lt=1)
    """Share of the transcript tokens that the decoder reads as random other tokens of the batch. The tokens that it
    must predict stay. It keeps a decoder that has seen little text from ignoring the audio. For `sft`; others ignore
    it."""


class EngineSettings(Settings):
    """What decodes transcripts."""

    engine: Literal["own", "vllm"] = "own"
    """`own`: the model, in the training process. `vllm`: a vLLM process beside every training process; its weights are
    updated before it decodes. `vllm` is faster for large models and batches. Needs `arkasr[vllm]`."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type that vLLM computes in. `null`: that of the training process, float32 in a label stage. Needs `engine:
    vllm`."""

    cache_gib: float = Field(default=4.0, gt=0)
    """Memory for vLLM's keys and values, in GiB. Needs `engine: vllm`."""


class RolloutSettings(EngineSettings):
    """What decodes the student's rollouts."""

    staleness: int = Field(default=0, ge=0)
    """How many optimizer steps ahead vLLM decodes, and so how many updates old the weights of a rollout may be. 0:
    none; the trainer waits for every rollout. 1: vLLM decodes the next step's rollouts during this step. Needs `engine:
    vllm`."""

    @model_validator(mode="after")
    def _own_rollouts_are_never_stale(self) -> "RolloutSettings":
        if self.engine == "own" and self.staleness:
            raise ValueError("staleness: `engine: own` decodes with the current weights; set 0, or use `engine: vllm`")
        return self


class ObjectiveSettings(Settings):
    """The loss of on-policy distillation (docs/objective.md) and the rollouts on which it is computed."""

    top_k: int = Field(default=32, ge=1)
    """How many of its best tokens each model adds to the support."""

    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature of both distributions on the support."""

    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """`forward_kl`: KL(teacher ‖ student), the paper's. `reverse_kl`: KL(student ‖ teacher). `jsd`: generalised
    Jensen-Shannon divergence."""

    beta: float = Field(default=0.5, gt=0, lt=1)
    """Weight of the teacher in the mixture of `jsd`. Needs `divergence: jsd`."""

    support: Literal["union", "teacher", "student", "intersection", "full"] = "union"
    """Tokens on which the distributions are compared, of the best tokens of both models. `union` is the paper's.
    `full`: every token that both models may write; not with a served teacher."""

    tail: Literal["none", "bucket"] = "none"
    """Probability outside the support. `none`: ignored, as in the paper. `bucket`: one more class; not with a served
    teacher."""

    upstream_scores: bool = False
    """Mix logits and log-probabilities as the published code does. For comparison only. Needs `tail: none`; not with a
    served teacher."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Most tokens of a rollout."""

    rollouts: RolloutSettings = RolloutSettings()
    """What decodes the rollouts."""

    rollout_temperature: float = Field(default=0.0, ge=0)
    """0: greedy rollouts, as in the paper. Above 0: tokens are sampled at this temperature."""

    min_mapped_share: float = Field(default=0.5, ge=0, le=1)
    """The run stops when the teacher can score less than this share of the rollout tokens."""

    looping: Literal["mask", "keep"] = "mask"
    """Rollouts that repeat a phrase again and again. `mask`: the repetition does not count in the loss. `keep`: it
    counts, as in the paper."""
