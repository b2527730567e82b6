"""What the stages of a run share: sets already read, features already computed, models already trained."""

from functools import cached_property
from pathlib import Path

import torch

from arkasr.data.examples import FeatureMemory
from arkasr.data.manifest import Utterance, read_manifest
from arkasr.errors import InputError
from arkasr.model.build import build_ark_asr
from arkasr.model.presets import STUDENT_PRESETS
from arkasr.model.processor import INSTRUCTION
from arkasr.model.recognizer import Recognizer
from arkasr.model.tokenizer import BaseVocabulary, train_base_vocabulary
from arkasr.recipe.folder import RunFolder
from arkasr.recipe.sets import corpus_folder, load_set
from arkasr.recipe.settings import LabelStageSettings, ModelSettings, Recipe
from arkasr.teacher.build import build_qwen3_asr
from arkasr.teacher.load import load_recognizer
from arkasr.teacher.presets import PROMPT_WORDS, TEACHER_PRESETS


class Workshop:
    """Hands out sets and recognisers by the names that the recipe gives them."""

    def __init__(self, recipe: Recipe, folder: RunFolder, device: torch.device) -> None:
        self.recipe = recipe
        self.folder = folder
        self.device = device
        self.memory = FeatureMemory()
        self._sets: dict[str, list[Utterance]] = {}

    @cached_property
    def corpus(self) -> Path:
        """Folder of the recipe's manifests."""
        return corpus_folder(self.recipe.corpus)

    @cached_property
    def vocabulary(self) -> BaseVocabulary:
        """Base vocabulary of the models that are built from nothing."""
        settings = self.recipe.tokenizer
        assert settings is not None
        texts = [utterance.text for utterance in self.set(settings.texts) if utterance.text]
        if not texts:
            raise InputError(f"tokenizer.texts: the set {settings.texts!r} has no text")
        return train_base_vocabulary(texts, settings.vocab_size, [INSTRUCTION, *PROMPT_WORDS])

    def set(self, name: str) -> list[Utterance]:
        """A set of the recipe by name."""
        if name not in self._sets:
            self._sets[name] = load_set(self.recipe.sets[name], self.corpus)
        return self._sets[name]

    def heard(self, name: str, seed: int) -> list[Utterance]:
        """What a stage trains on: a set, or the labels that a label stage wrote."""
        if name in self.recipe.sets:
            return self.set(name)
        return read_manifest(self.folder.labels(name, self.seed_of(name, seed)))

    def seed_of(self, name: str, seed: int) -> int:
        """The seed under which a stage's result is kept: the first one if it runs once for all."""
        return self.recipe.seeds[0] if self.is_shared(name) else seed

    def is_shared(self, name: str) -> bool:
        """Whether a stage, or the model it is, is the same for every seed."""
        return name not in self.recipe.stages or self.recipe.stages[name].once

    def recognizer(self, name: str, seed: int) -> Recognizer:
        """The weights called `name`: a finished stage's, or a starting point's.

        Raises:
            InputError: the stage has not been run in this folder.
        """
        if name in self.recipe.models:
            return self._starting_point(self.recipe.models[name], seed)
        if isinstance(self.recipe.stages[name], LabelStageSettings):
            raise InputError(f"stages.{name} writes labels; it has no weights to start from")
        place = self.folder.model(name, self.seed_of(name, seed))
        if not place.exists():
            raise InputError(f"{place}: stage {name!r} has not been run yet; run the whole recipe first")
        return load_recognizer(place, device=str(self.device))

    def _starting_point(self, model: ModelSettings, seed: int) -> Recognizer:
        if model.pretrained is not None:
            return load_recognizer(model.pretrained, revision=model.revision, device=str(self.device))
        torch.manual_seed(seed)
        if model.preset in STUDENT_PRESETS:
            recognizer: Recognizer = build_ark_asr(merged(STUDENT_PRESETS[model.preset], model.sizes), self.vocabulary)
        elif model.preset in TEACHER_PRESETS:
            recognizer = build_qwen3_asr(merged(TEACHER_PRESETS[model.preset], model.sizes), self.vocabulary)
        else:
            known = ", ".join([*STUDENT_PRESETS, *TEACHER_PRESETS])
            raise InputError(f"models: there is no preset {model.preset!r}; known are {known}")
        recognizer.model.to(self.device)
        return recognizer


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` laid over it, mapping into mapping."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if nested else value
    return result
