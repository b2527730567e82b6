"""Base class of every settings class. A settings class checks what a user wrote in a file; its fields are the keys."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from arkasr.errors import nearest_of


class Settings(BaseModel):
    """Immutable settings that refuse unknown keys. The docstring below a field describes its key."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _suggest_nearest_key(cls, document: Any) -> Any:
        if isinstance(document, dict):
            keys = {*cls.model_fields, *(field.alias for field in cls.model_fields.values() if field.alias)}
            for key in document:
                if key not in keys:
                    raise ValueError(f"unknown key {key!r}; {nearest_of(str(key), keys)}")
        return document


def first_repeated(values: Sequence[Hashable]) -> Any:
    """The first value that occurs twice; None if all differ."""
    return next((value for value, count in Counter(values).items() if count > 1), None)
