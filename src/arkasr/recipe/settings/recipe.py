"""A recipe that has been checked: every key, and the rules across keys."""

from pydantic import model_validator

from arkasr.recipe.settings.rules import check_rules
from arkasr.recipe.settings.unchecked import UncheckedRecipe


class Recipe(UncheckedRecipe):
    """An experiment, from its data to its comparisons."""

    @model_validator(mode="after")
    def _follows_the_rules(self) -> "Recipe":
        check_rules(self)
        return self
