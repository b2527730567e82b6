"""What the stages of a run share: sets already read, features already computed, models already trained."""

from functools import cached_property
from pathlib import Path

import torch

from arkasr.data.examples import FeatureMemory
from arkasr.data.manifests.utterances import Utterances
from arkasr.errors import InputError
from arkasr.model.processor import INSTRUCTION
from arkasr.recipe.presets import build_preset
from arkasr.recipe.settings import LabelStageSettings, ModelSettings, Recipe
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.qwen3_asr import PROMPT_WORDS
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.tokenizer import BaseVocabulary, train_base_vocabulary
from arkasr.run.folder import RunFolder
from arkasr.run.sets import corpus_folder, load_set, open_with_progress


class RunContext:
    """Hands out sets and recognisers by the names that the recipe gives them."""

    def __init__(self, recipe: Recipe, folder: RunFolder, device: torch.device) -> None:
        self.recipe = recipe
        self.folder = folder
        self.device = device
        self.memory = FeatureMemory()
        # Of hub names, by model: what the run uses, wherever a branch points to by now.
        self.commits: dict[str, str] = {}
        self._sets: dict[str, Utterances] = {}

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

    def set(self, name: str) -> Utterances:
        """A set of the recipe by name."""
        if name not in self._sets:
            self._sets[name] = load_set(self.recipe.sets[name], self.corpus)
        return self._sets[name]

    def training_utterances(self, name: str, seed: int) -> Utterances:
        """What a stage trains on: a set, or the labels that a label stage wrote.

        Raises:
            InputError: the label stage has not been run in this folder.
        """
        if name in self.recipe.sets:
            return self.set(name)
        return open_with_progress(_result_of(name, self.folder.labels(name, self.seed_of(name, seed))))

    def seed_of(self, name: str, seed: int) -> int:
        """The seed under which a stage's result is kept: the first one if it runs once for all."""
        shared = name not in self.recipe.stages or self.recipe.stages[name].once
        return self.recipe.seeds[0] if shared else seed

    def model(self, name: str) -> ModelSettings:
        """A starting point or teacher of the recipe by name; of a hub name with the commit that the run uses."""
        model = self.recipe.models[name]
        return model.model_copy(update={"revision": self.commits.get(name, model.revision)})

    def recognizer(self, name: str, seed: int, device: torch.device | None = None) -> Recognizer:
        """The weights called `name`: a finished stage's, or a starting point's; on the run's device if none is given.

        Raises:
            InputError: the stage has not been run in this folder.
        """
        if name in self.recipe.models:
            return self._starting_point(self.model(name), seed, device or self.device)
        if isinstance(self.recipe.stages[name], LabelStageSettings):
            raise InputError(f"stages.{name} writes labels; it has no weights to start from")
        place = _result_of(name, self.folder.model(name, self.seed_of(name, seed)))
        return load_recognizer(place, device=str(device or self.device))

    def _starting_point(self, model: ModelSettings, seed: int, device: torch.device) -> Recognizer:
        if model.pretrained is not None:
            return load_recognizer(model.pretrained, revision=model.revision, device=str(device))
        torch.manual_seed(seed)
        assert model.preset is not None
        recognizer = build_preset(model.preset, model.sizes, self.vocabulary)
        recognizer.model.to(device)
        return recognizer


def _result_of(stage: str, place: Path) -> Path:
    if not place.exists():
        raise InputError(f"{place}: stage {stage!r} has not been run yet; run the whole recipe first")
    return place
