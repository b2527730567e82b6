"""The top level of a recipe file, before the rules across keys are checked, and the stages behind a model."""

from pydantic import Field

from arkasr.recipe.settings.evaluation import EvaluationSettings
from arkasr.recipe.settings.models import ModelSettings, TokenizerSettings
from arkasr.recipe.settings.sets import CorpusSettings, SetSettings
from arkasr.recipe.settings.stages import AnyStageSettings, TrainingStageSettings
from arkasr.settings import Settings


class UncheckedRecipe(Settings):
    """The keys of a recipe. Rules take this class; `Recipe` adds the check of the rules."""

    name: str
    """Name of the experiment. The run's folder is `runs/NAME` unless `--output` says otherwise."""

    description: str = ""
    """A paragraph for the report."""

    seeds: list[int] = Field(default=[0], min_length=1)
    """Every stage runs for each seed. A stage with `once` runs for the first seed only. With several seeds, intervals
    and tests describe the recipe and not one run of it."""

    corpus: CorpusSettings = CorpusSettings()
    """Where the manifests are."""

    sets: dict[str, SetSettings]
    """Sets of utterances, by name."""

    tokenizer: TokenizerSettings | None = None
    """Base vocabulary. Needed if a model has a `preset` and no `decoder`."""

    models: dict[str, ModelSettings]
    """Models to start from, by name."""

    stages: dict[str, AnyStageSettings]
    """Stages by name, in the order in which they run. A stage can use the stages above it. Its name must not be the
    name of a model."""

    variants: dict[str, str] = Field(default={})
    """Models to evaluate. `NAME` is the name in the tables. The value is a training stage or a model."""

    evaluation: EvaluationSettings = EvaluationSettings()
    """How variants are scored and compared."""

    def chain(self, name: str) -> list[str]:
        """The stages that led to a stage's weights, first to last, itself included."""
        stages = []
        while name in self.stages:
            stages.append(name)
            name = self.stages[name].start
        return stages[::-1]

    def origin(self, name: str) -> str:
        """The model that a stage's weights come from."""
        while name in self.stages:
            name = self.stages[name].start
        return name

    def updates(self, name: str) -> int:
        """Optimizer steps that led to a stage's weights."""
        chain = [self.stages[stage] for stage in self.chain(name)]
        return sum(stage.optimization.steps for stage in chain if isinstance(stage, TrainingStageSettings))
