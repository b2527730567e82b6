"""Shrink any recipe to toy size: the same stages and variants with tiny models, built-in speech and a few steps.

A smoke run shows that a recipe's stages and settings work together. Its error rates mean nothing.
"""

from typing import Any

from arkasr.data.corpora.specs import SyntheticCorpusConfig
from arkasr.recipe.settings import (
    AnyStageSettings,
    CorpusSettings,
    EvaluationSettings,
    LabelStageSettings,
    ModelSettings,
    OpdStageSettings,
    Recipe,
    SetSettings,
    TokenizerSettings,
    TrainingStageSettings,
)

STEPS = 2
UTTERANCES = 24
BATCH_SECONDS = 20.0
ACCUMULATION = 2
MAX_NEW_TOKENS = 12
TOKENIZER_SET = "smoke-texts"
CORPUS = SyntheticCorpusConfig(seed=0, train_utterances=UTTERANCES, dev_utterances=3, test_utterances=1)


def shrink(recipe: Recipe) -> Recipe:
    """A copy with small numbers, built-in speech instead of the recipe's sets, and presets instead of its models."""
    training = [stage for stage in recipe.stages.values() if isinstance(stage, TrainingStageSettings)]
    used = {name for stage in training for name in (stage.train, *stage.background_sets.values())}
    used |= {stage.audio for stage in recipe.stages.values() if isinstance(stage, LabelStageSettings)}
    sets = {
        name: SetSettings(manifest="train.jsonl", labels=settings.labels)
        if name in used
        else SetSettings(manifest="dev.jsonl", language=settings.language or "English", labels=settings.labels)
        for name, settings in recipe.sets.items()
    }
    sets[TOKENIZER_SET] = SetSettings(manifest="train.jsonl")
    teachers = {recipe.origin(name) for name in _teachers_of(recipe)}
    models = {
        name: ModelSettings(preset="qwen3-asr-tiny" if name in teachers else "ark-asr-tiny") for name in recipe.models
    }
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-smoke",
            "corpus": CorpusSettings(synthetic=CORPUS),
            "sets": sets,
            "tokenizer": TokenizerSettings(texts=TOKENIZER_SET, vocab_size=400),
            "models": models,
            "stages": {name: _shrink_stage(stage) for name, stage in recipe.stages.items()},
            "evaluation": _shrink_evaluation(recipe.evaluation),
        }
    )


def _teachers_of(recipe: Recipe) -> list[str]:
    """The models and stages that score or label."""
    scoring = [stage.teacher for stage in recipe.stages.values() if isinstance(stage, OpdStageSettings)]
    labelling = [stage.start for stage in recipe.stages.values() if isinstance(stage, LabelStageSettings)]
    return scoring + labelling


def _shrink_stage(stage: AnyStageSettings) -> AnyStageSettings:
    if isinstance(stage, LabelStageSettings):
        return stage.model_copy(update={"max_new_tokens": MAX_NEW_TOKENS, "drop_failures": False})
    changes: dict[str, Any] = {
        "optimization": stage.optimization.model_copy(
            update={
                "steps": min(STEPS, stage.optimization.steps),
                "batch_seconds": BATCH_SECONDS,
                "accumulation": min(ACCUMULATION, stage.optimization.accumulation),
                "warmup_steps": min(1, stage.optimization.warmup_steps),
                "evaluate_every": 0,
                "checkpoint_every": 0,
                "data_workers": 0,
                "mixed_precision": "no",
            }
        )
    }
    if isinstance(stage, OpdStageSettings):
        changes["calibration_batches"] = 1
        changes["objective"] = stage.objective.model_copy(
            update={"max_new_tokens": MAX_NEW_TOKENS, "min_paired_share": 0.0}
        )
    return stage.model_copy(update=changes)


def _shrink_evaluation(evaluation: EvaluationSettings) -> EvaluationSettings:
    return evaluation.model_copy(update={"max_new_tokens": MAX_NEW_TOKENS, "samples": 100, "batch_seconds": 30.0})
