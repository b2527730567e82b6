"""The base of everything that a file of the user's is parsed into. Knows nothing of what the keys mean."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from arkasr.errors import nearest_of


class Settings(BaseModel):
    """Base of everything a recipe file is parsed into: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _suggest_nearest_key(cls, document: Any) -> Any:
        if isinstance(document, dict):
            for key in document:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}; {nearest_of(str(key), cls.model_fields)}")
        return document
