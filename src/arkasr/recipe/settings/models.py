"""The keys of a recipe that name models, the vocabulary of new ones, and the servers of a teacher."""

from typing import Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from arkasr.recipe.presets import check_preset
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS
from arkasr.settings import Settings


class Source(NamedTuple):
    """A trained model that a key names: folder or hub name, and commit, tag or branch on the hub."""

    name: str
    revision: str | None


class TokenizerSettings(Settings):
    """The base vocabulary of models with a `preset`. Models with a `decoder` can keep its whole vocabulary instead."""

    texts: str
    """Set with labels. The vocabulary is trained on these labels, or pruned to the tokens that they need."""

    vocab_size: int | None = Field(default=None, ge=256)
    """Number of tokens, including the 256 single bytes. With `pruned_from`, the most tokens: only the results of the
    first merges that `texts` need are kept. `null`: as many as `texts` need; needs
    `pruned_from`."""

    pruned_from: str | None = None
    """Folder or hub name of a model with a byte-level BPE, such as a Whisper or Qwen model. The vocabulary holds only
    tokens of that model: all single bytes, and those that `texts` and the prompts need. With a Whisper model's
    vocabulary, Ark-ASR models begin transcripts with a blank, as Whisper does."""

    revision: str | None = None
    """Commit, tag or branch of `pruned_from` on the hub. `null`: the newest commit."""

    @model_validator(mode="after")
    def _has_a_size(self) -> "TokenizerSettings":
        if self.vocab_size is None and self.pruned_from is None:
            raise ValueError("give `vocab_size` to train a vocabulary, or `pruned_from` to prune that of a model")
        if self.revision is not None and self.pruned_from is None:
            raise ValueError("revision: needs `pruned_from`; add it, or remove the key")
        return self

    @property
    def source(self) -> Source | None:
        """The trained model that the vocabulary comes from; None = it is trained."""
        return None if self.pruned_from is None else Source(self.pruned_from, self.revision)


class ServedSettings(Settings):
    """vLLM servers that score for the teacher of an OPD stage (docs/teachers.md)."""

    urls: list[str] = Field(min_length=1)
    """Addresses of the servers, like `http://host:8000`. All must serve the same model."""

    model: str | None = None
    """Name of the teacher on the servers. `null`: the only model of the servers."""

    scores: Literal["named", "best"] = "named"
    """`named`: the servers return the score of every token of the support, so the loss is exact. arkasr must be
    installed in vLLM's environment. `best`: any vLLM works. The servers return the best tokens, and all other tokens of
    the vocabulary share the remaining probability equally."""

    best_tokens: int = Field(default=256, ge=1)
    """Minimum number of best tokens that are requested per position. A large `top_k` requests more. Needs `scores:
    best`."""

    weights: bool = True
    """`true`: the weights of `pretrained` are loaded once, to check the servers' scores before the first step. `false`:
    `pretrained` needs only config and processor; all servers are compared with the first one."""

    tolerance: float = Field(default=1e-3, gt=0)
    """Maximum difference of a log-probability, in nats, when servers are checked. The default suits servers in float32;
    bfloat16 needs a larger value."""

    in_flight: int = Field(default=8, ge=1)
    """Maximum number of open requests of one training process at one server."""

    timeout_seconds: float = Field(default=120.0, gt=0)
    """A request that has no answer after this many seconds is sent again, to any healthy server."""

    patience_seconds: float = Field(default=1800.0, gt=0)
    """The run stops if no server has answered for this many seconds."""

    @field_validator("urls")
    @classmethod
    def _are_addresses(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url!r} is not the address of a server; give one like http://host:8000")
        return urls


class ModelSettings(Settings):
    """A model to start from: a preset with random weights, or a trained model."""

    preset: str | None = None
    """Build a model with random weights: `ark-asr-tiny`, `ark-asr-0.6b`, `qwen3-asr-tiny`, `qwen3-asr-1.7b`,
    `whisper-tiny`, `whisper-base`, `whisper-small`, `whisper-medium`, `whisper-large-v2`, `whisper-large-v3` or
    `whisper-large-v3-turbo`. Give either this or `pretrained`. Needs `tokenizer` or `decoder`."""

    sizes: dict[str, Any] = Field(default={})
    """Config fields that replace those of the preset, by name. Fields of sub-configs are nested. Needs `preset`."""

    encoder: str | None = None
    """Folder or hub name of a Whisper model. The new model starts from its encoder's weights and has its sizes. Needs
    an Ark-ASR `preset`. `null`: random weights."""

    encoder_revision: str | None = None
    """Commit, tag or branch of `encoder` on the hub. `null`: the newest commit."""

    decoder: str | None = None
    """Folder or hub name of a Qwen2 or Llama text model with a byte-level BPE. The new model starts from its weights,
    and has its sizes and its vocabulary. Needs an Ark-ASR `preset`. If the recipe has a `tokenizer`, it must be
    `pruned_from` the same model and revision. `null`: random weights."""

    decoder_revision: str | None = None
    """Commit, tag or branch of `decoder` on the hub. `null`: the newest commit."""

    pretrained: str | None = None
    """Folder of a trained model, or its name on the Hugging Face hub."""

    revision: str | None = None
    """Commit, tag or branch on the hub. `null`: the newest commit. Needs `pretrained`."""

    served: ServedSettings | None = None
    """Servers that score if this model is the teacher of an OPD stage. `null`: the training process scores. Needs
    `pretrained`, for config and processor."""

    @model_validator(mode="after")
    def _has_one_origin(self) -> "ModelSettings":
        if (self.preset is None) == (self.pretrained is None):
            raise ValueError("give either `preset` or `pretrained`")
        if self.preset is not None:
            check_preset(self.preset, self.sizes)
        elif self.sizes:
            raise ValueError("sizes: changes a preset only; a pretrained model has its own sizes, so remove the key")
        if self.served is not None and self.pretrained is None:
            raise ValueError("served: needs the model's folder or hub name as `pretrained`, for its processor")
        for key in ("encoder", "decoder"):
            if getattr(self, key) is not None and self.preset not in ARK_ASR_PRESETS:
                raise ValueError(f"{key}: needs `preset`, one of {', '.join(ARK_ASR_PRESETS)}")
            if getattr(self, f"{key}_revision") is not None and getattr(self, key) is None:
                raise ValueError(f"{key}_revision: needs `{key}`; add it, or remove the key")
        return self

    @property
    def sources(self) -> dict[str, Source]:
        """The trained models whose weights are loaded, by key."""
        found = {
            "pretrained": (self.pretrained, self.revision),
            "encoder": (self.encoder, self.encoder_revision),
            "decoder": (self.decoder, self.decoder_revision),
        }
        return {key: Source(name, revision) for key, (name, revision) in found.items() if name is not None}
