"""The interface of an engine that writes transcripts in place of `decode`, for example in another process."""

from collections.abc import Callable, Sequence
from typing import Protocol

from arkasr.recognizers.decoding import Sampling, Transcripts
from arkasr.recognizers.recognizer import Prompts, Recognizer


class Engine(Protocol):
    """Writes the transcripts of `decode` with its own copy of the recogniser's weights."""

    def __call__(
        self,
        recognizer: Recognizer,
        prompts: Prompts,
        *,
        max_new_tokens: int,
        drafts: Sequence[Sequence[int]] | None = None,
        sampling: Sampling | None = None,
    ) -> Transcripts:
        """A transcript for every prompt. Arguments and result are those of `decode`, without the states."""

    def submit(
        self, recognizer: Recognizer, prompts: Prompts, *, max_new_tokens: int, sampling: Sampling | None = None
    ) -> Callable[[], Transcripts]:
        """Start writing with the present weights and return at once; the returned function waits for the result."""

    def on_weights_changed(self) -> None:
        """Use the recogniser's new weights for all later calls; must be called after every change of the weights."""

    def close(self) -> None:
        """Release memory and processes of the engine."""
