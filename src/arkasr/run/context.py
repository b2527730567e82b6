"""What the stages of a run share: sets, feature cache, vocabulary and models, by their names in the recipe."""

from functools import cached_property
from pathlib import Path

import torch

from arkasr.data.examples import FeatureCache
from arkasr.data.manifests.utterances import Utterances
from arkasr.errors import InputError
from arkasr.recipe.settings import LabelStageSettings, ModelSettings, Recipe
from arkasr.recognizers.load import load_recognizer, load_without_weights
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.tokenizer import BaseVocabulary
from arkasr.run.folder import RunFolder
from arkasr.run.sets import corpus_folder, load_set, open_with_progress
from arkasr.run.starting_points import base_vocabulary, new_model, pretrained_model


class RunContext:
    """Looks up sets and models by their names in the recipe; sets are opened once, features are kept up to a limit."""

    def __init__(self, recipe: Recipe, folder: RunFolder, device: torch.device) -> None:
        self.recipe = recipe
        self.folder = folder
        self.device = device
        self.feature_cache = FeatureCache()
        # The recorded commit of each hub name, by the key that names it. It is loaded even if the branch has moved.
        self.commits: dict[str, str] = {}
        self._sets: dict[str, Utterances] = {}
        self._windows: dict[str, float] = {}

    @cached_property
    def corpus(self) -> Path:
        """Folder of the recipe's manifests."""
        return corpus_folder(self.recipe.corpus)

    @cached_property
    def vocabulary(self) -> BaseVocabulary:
        """Base vocabulary of the models that are built from a preset."""
        settings = self.recipe.tokenizer
        assert settings is not None
        texts = [utterance.text for utterance in self.set(settings.texts) if utterance.text]
        if not texts:
            raise InputError(f"tokenizer.texts: the set {settings.texts!r} has no text")
        recorded = self.commits.get("tokenizer.pruned_from", settings.revision)
        return base_vocabulary(settings.model_copy(update={"revision": recorded}), texts)

    def set(self, name: str) -> Utterances:
        """A set of the recipe."""
        if name not in self._sets:
            self._sets[name] = load_set(self.recipe.sets[name], self.corpus)
        return self._sets[name]

    def training_utterances(self, name: str, seed: int) -> Utterances:
        """The training utterances called `name`: a set, or the labels of a label stage.

        Raises:
            InputError: the label stage has not been run in this folder.
        """
        if name in self.recipe.sets:
            return self.set(name)
        return open_with_progress(_existing(name, self.folder.labels(name, self.seed_of(name, seed))))

    def seed_of(self, name: str, seed: int) -> int:
        """The seed under which a result is stored: the first seed for models and for stages with `once`."""
        once = name not in self.recipe.stages or self.recipe.stages[name].once
        return self.recipe.seeds[0] if once else seed

    def model(self, name: str) -> ModelSettings:
        """A model of the recipe; the revisions of its hub names are the recorded commits."""
        model = self.recipe.models[name]
        recorded = {
            "revision": self.commits.get(f"models.{name}", model.revision),
            "encoder_revision": self.commits.get(f"models.{name}.encoder", model.encoder_revision),
            "decoder_revision": self.commits.get(f"models.{name}.decoder", model.decoder_revision),
        }
        return model.model_copy(update=recorded)

    def window_seconds(self, name: str) -> float:
        """Seconds to which a `pretrained` model of the recipe pads shorter utterances; 0 = it does not, or is new."""
        if name not in self._windows:
            model = self.model(name)
            self._windows[name] = (
                0.0
                if model.pretrained is None
                else load_without_weights(model.pretrained, revision=model.revision).window_seconds
            )
        return self._windows[name]

    def recognizer(self, name: str, seed: int, device: torch.device | None = None) -> Recognizer:
        """The model called `name`: trained by a stage, or one of the recipe's `models`. `device` defaults to the run's.

        Raises:
            InputError: the stage has not been run in this folder.
        """
        if name in self.recipe.models:
            model = self.model(name)
            if model.pretrained is not None:
                return pretrained_model(model, device or self.device)
            vocabulary = None if self.recipe.tokenizer is None else self.vocabulary
            return new_model(name, model, vocabulary, seed, device or self.device)
        if isinstance(self.recipe.stages[name], LabelStageSettings):
            raise InputError(f"stages.{name} writes labels; it has no weights to start from")
        folder = _existing(name, self.folder.model(name, self.seed_of(name, seed)))
        return load_recognizer(folder, device=str(device or self.device))


def _existing(stage: str, path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{path}: stage {stage!r} has not been run yet; run the whole recipe first")
    return path
