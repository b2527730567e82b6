"""The keys of a recipe that name audio: the folder of the manifests, and the sets of utterances."""

from typing import Literal

from pydantic import Field, model_validator

from arkasr.data.corpora.synthetic import SyntheticCorpusConfig
from arkasr.data.streams.dataset_source import DatasetSource
from arkasr.settings import Settings


class CorpusSettings(Settings):
    """Where the manifests of the sets are."""

    synthetic: SyntheticCorpusConfig | None = None
    """Use the built-in speech, synthesised once and cached. `{}` takes all its defaults. Needs `arkasr[quickstart]`.
    `folder` is then ignored."""

    folder: str | None = None
    """Folder of the manifests, relative to the working directory. `null`: the working directory."""


class SetSettings(Settings):
    """A set of utterances. The keys apply in the order of this table."""

    manifest: str | None = None
    """Manifest file in the corpus folder, or an absolute path. Either this or `dataset`. The built-in speech has
    `train.jsonl`, `dev.jsonl`, `en-clean.jsonl`, `en-other.jsonl`, `zh-read.jsonl`, `zh-meeting.jsonl` and
    `zh-net.jsonl`."""

    dataset: DatasetSource | None = None
    """A dataset that is streamed. Only a stage's `train` can name such a set."""

    language: str | None = None
    """Keep the utterances of this language, a name or a code. `null`: all. Not with `dataset`."""

    max_seconds: float | None = Field(default=None, gt=0)
    """Drop longer utterances. Seconds; `null`: none are dropped."""

    shuffle: int | None = None
    """Seed of a shuffle before `first` is taken. `null`: the order of the manifest. Not with `dataset`."""

    first: int | None = Field(default=None, ge=1)
    """Keep this many utterances. `null`: all. Not with `dataset`."""

    labels: Literal["given", "withheld"] = "given"
    """`withheld`: the text is removed when the set is read. `ctc`, `sft` and the tokenizer need `given`."""

    @model_validator(mode="after")
    def _has_one_source(self) -> "SetSettings":
        if (self.manifest is None) == (self.dataset is None):
            raise ValueError("give either `manifest` or `dataset`")
        if self.dataset is not None:
            for key in ("language", "shuffle", "first"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key}: does not work with a streamed `dataset`; remove it, or use a `manifest`")
        return self
