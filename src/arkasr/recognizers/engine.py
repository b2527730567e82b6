"""What writes for a recogniser in place of `decode`: an engine elsewhere that has its weights."""

from collections.abc import Callable, Sequence
from typing import Protocol

from arkasr.recognizers.decoding import Sampling, Transcripts
from arkasr.recognizers.recognizer import Prompts, Recognizer


class Engine(Protocol):
    """Writes what `decode` writes, and follows the recogniser's weights when they change."""

    def __call__(
        self,
        recognizer: Recognizer,
        prompts: Prompts,
        *,
        max_new_tokens: int,
        drafts: Sequence[Sequence[int]] | None = None,
        sampling: Sampling | None = None,
    ) -> Transcripts:
        """A transcript for every prompt; arguments as of `decode`, results too, less the states."""

    def ask(
        self, recognizer: Recognizer, prompts: Prompts, *, max_new_tokens: int, sampling: Sampling | None = None
    ) -> Callable[[], Transcripts]:
        """As a call, with the weights of now, without waiting; the answer is called for once it is needed."""

    def updated(self) -> None:
        """Learn that the recogniser's weights have changed: what is asked from now on is written with them."""

    def close(self) -> None:
        """Give back what the engine holds."""
