"""The models of a recipe as they are before the first stage."""

import torch

from arkasr.recipe.presets import build_preset, with_part
from arkasr.recipe.settings import ModelSettings
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.tokenizer import BaseVocabulary
from arkasr.recognizers.trained_encoder import copy_encoder, load_encoder


def pretrained_model(model: ModelSettings, device: torch.device) -> Recognizer:
    """A trained model, loaded."""
    assert model.pretrained is not None
    return load_recognizer(model.pretrained, revision=model.revision, device=str(device))


def new_model(
    name: str, model: ModelSettings, vocabulary: BaseVocabulary, seed: int, device: torch.device
) -> Recognizer:
    """A model from a preset, with random weights except for its trained parts.

    Args:
        name: of the model in the recipe.
        model: its keys.
        vocabulary: its base tokens.
        seed: of the random weights.
        device: where the model goes.

    Raises:
        InputError: a trained part cannot be loaded, or contradicts `sizes`.
    """
    assert model.preset is not None
    sizes, encoder = model.sizes, None
    if model.encoder is not None:
        part, encoder = load_encoder(model.encoder, model.encoder_revision)
        sizes = with_part(sizes, part, f"models.{name}.sizes", model.encoder)
    torch.manual_seed(seed)
    recognizer = build_preset(model.preset, sizes, vocabulary)
    if encoder is not None:
        assert isinstance(recognizer, ArkAsr)
        copy_encoder(encoder, recognizer.model)
    recognizer.model.to(device)
    return recognizer
