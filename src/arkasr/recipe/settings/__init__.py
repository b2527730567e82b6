"""The keys of a recipe file, one module a part of the file. Parsing is strict: a wrong key or value is an error.

`load.py` reads the file. docs/recipe.md is generated from the docstrings below the fields.
"""

from arkasr.recipe.settings.evaluation import EvaluationSettings
from arkasr.recipe.settings.models import ModelSettings, ServedSettings, Source, TokenizerSettings
from arkasr.recipe.settings.recipe import Recipe
from arkasr.recipe.settings.sets import CorpusSettings, SetSettings
from arkasr.recipe.settings.stages import (
    AnyStageSettings,
    CtcStageSettings,
    LabelStageSettings,
    OpdStageSettings,
    SftStageSettings,
    StageSettings,
    TrainingStageSettings,
)

__all__ = [
    "AnyStageSettings",
    "CorpusSettings",
    "CtcStageSettings",
    "EvaluationSettings",
    "LabelStageSettings",
    "ModelSettings",
    "OpdStageSettings",
    "Recipe",
    "ServedSettings",
    "SetSettings",
    "SftStageSettings",
    "Source",
    "StageSettings",
    "TokenizerSettings",
    "TrainingStageSettings",
]
