"""What a recogniser wrote for a clip."""

from dataclasses import dataclass

from arkasr.data.manifests.output_fields import LOOPING, TRUNCATED
from arkasr.recognizers.loops import is_looping


@dataclass(frozen=True)
class Recognition:
    """The result for one clip.

    Attributes:
        raw: the text as generated, with control tokens; None if the clip failed.
        text: the cleaned text; None if the clip failed.
        tokens: number of generated tokens, the stop token included.
        stopped: False if the cap on tokens was reached first.
        error: why the clip failed.
    """

    raw: str | None = None
    text: str | None = None
    tokens: int = 0
    stopped: bool = False
    error: str | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """`looping` if the same words occur four times in a row, `truncated` if the cap was reached."""
        if self.text is None:
            return ()
        return (LOOPING,) * is_looping(self.text) + (TRUNCATED,) * (not self.stopped)
