"""The models of a recipe as they are before the first stage, and the vocabulary of the new ones."""

from collections.abc import Sequence

import torch

from arkasr.model.processor import INSTRUCTION
from arkasr.recipe.presets import build_preset, with_part
from arkasr.recipe.settings import ModelSettings, TokenizerSettings
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.qwen3_asr import PROMPT_WORDS
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.text import blank_before
from arkasr.recognizers.tokenizer import BaseVocabulary, train_base_vocabulary
from arkasr.recognizers.trained_decoder import copy_decoder, load_decoder
from arkasr.recognizers.trained_encoder import copy_encoder, load_encoder
from arkasr.recognizers.trained_vocabulary import load_vocabulary, prune

PROMPTS = (INSTRUCTION, *PROMPT_WORDS)


def base_vocabulary(settings: TokenizerSettings, texts: Sequence[str]) -> BaseVocabulary:
    """The base vocabulary of new models: trained on texts, or that of a trained model, pruned to what texts need.

    Raises:
        InputError: the trained model has no vocabulary that can be pruned.
    """
    if settings.source is None:
        assert settings.vocab_size is not None
        return train_base_vocabulary(texts, settings.vocab_size, PROMPTS)
    whole = load_vocabulary(*settings.source)
    with_blank = [blank_before(text) + text for text in texts] if whole.leading_blank else []
    return prune(whole, [*texts, *with_blank, *PROMPTS], settings.vocab_size)


def pretrained_model(model: ModelSettings, device: torch.device) -> Recognizer:
    """A trained model, loaded."""
    assert model.pretrained is not None
    return load_recognizer(model.pretrained, revision=model.revision, device=str(device))


def new_model(
    name: str, model: ModelSettings, vocabulary: BaseVocabulary | None, seed: int, device: torch.device
) -> Recognizer:
    """A model from a preset, with random weights except for its trained parts.

    Args:
        name: of the model in the recipe.
        model: its keys.
        vocabulary: its base tokens; None = all those of its trained decoder.
        seed: of the random weights.
        device: where the model goes.

    Raises:
        InputError: a trained part cannot be loaded, or contradicts `sizes`.
    """
    assert model.preset is not None
    sizes, encoder, decoder = model.sizes, None, None
    if model.encoder is not None:
        part, encoder = load_encoder(model.encoder, model.encoder_revision)
        sizes = with_part(sizes, part, f"models.{name}.sizes", model.encoder)
    if model.decoder is not None:
        decoder = load_decoder(model.decoder, model.decoder_revision)
        sizes = with_part(sizes, decoder.sizes, f"models.{name}.sizes", model.decoder)
        vocabulary = vocabulary or load_vocabulary(model.decoder, model.decoder_revision)
    assert vocabulary is not None
    torch.manual_seed(seed)
    recognizer = build_preset(model.preset, sizes, vocabulary)
    if encoder is not None:
        assert isinstance(recognizer, ArkAsr)
        copy_encoder(encoder, recognizer.model)
    if decoder is not None:
        assert isinstance(recognizer, ArkAsr)
        copy_decoder(decoder, recognizer)
    recognizer.model.to(device)
    return recognizer
