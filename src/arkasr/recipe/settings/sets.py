"""The keys of a recipe that name audio: the folder of the manifests, and the sets of utterances."""

from typing import Literal

from pydantic import Field, model_validator

from arkasr.data.corpora.synthetic import SyntheticCorpusConfig
from arkasr.data.streams.dataset_source import DatasetSource
from arkasr.settings import Settings


class CorpusSettings(Settings):
    """Where the manifests of the sets are."""

    synthetic: SyntheticCorpusConfig | None = None
    """Use the built-in speech. It is synthesised once and cached. `{}` means all its defaults. Needs
    `arkasr[quickstart]`. With `synthetic`, `folder` is ignored."""

    folder: str | None = None
    """Folder of the manifests, relative to the working directory. `null`: the working directory."""


class SetSettings(Settings):
    """A set of utterances. The keys apply in the order of this table."""

    manifest: str | None = None
    """Manifest file in the corpus folder, or an absolute path. Give either this or `dataset`. The built-in speech has
    `train.jsonl`, `dev.jsonl`, `en-clean.jsonl`, `en-other.jsonl`, `zh-read.jsonl`, `zh-meeting.jsonl` and
    `zh-net.jsonl`."""

    dataset: DatasetSource | None = None
    """A streamed dataset. Only the key `train` of a stage can name such a set."""

    language: str | None = None
    """Keep the utterances of this language, given as a name or a code. `null`: keep all. Not with `dataset`."""

    max_seconds: float | None = Field(default=None, gt=0)
    """Drop utterances that are longer than this, in seconds. `null`: drop none."""

    shuffle: int | None = None
    """Shuffle the set with this seed before `first` applies. `null`: keep the order of the manifest. Not with
    `dataset`."""

    first: int | None = Field(default=None, ge=1)
    """Keep only this many utterances, from the start of the set. `null`: keep all. Not with `dataset`."""

    labels: Literal["given", "withheld"] = "given"
    """`withheld`: the text is removed when the set is read. `ctc` stages, `sft` stages and the tokenizer need
    `given`."""

    @model_validator(mode="after")
    def _has_one_source(self) -> "SetSettings":
        if (self.manifest is None) == (self.dataset is None):
            raise ValueError("give either `manifest` or `dataset`")
        if self.dataset is not None:
            for key in ("language", "shuffle", "first"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key}: does not work with a streamed `dataset`; remove it, or use a `manifest`")
        return self
