"""Recognisers on the meta device, built from their real classes without memory for weights.

In: a model as a recipe names it. Out: a `Recognizer` whose parameters have shapes and no values.
"""

from functools import cache
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from transformers import AutoConfig, PreTrainedConfig

import arkasr.model  # noqa: F401  (registers Ark-ASR with the Auto classes)
from arkasr.errors import InputError, first_line_of
from arkasr.model.processor import INSTRUCTION
from arkasr.recipe.presets import build_preset, with_part
from arkasr.recipe.settings import ModelSettings, TokenizerSettings
from arkasr.recognizers.load import load_without_weights
from arkasr.recognizers.qwen3_asr import PROMPT_WORDS
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.tokenizer import BYTE_SYMBOLS, BaseVocabulary, train_base_vocabulary
from arkasr.recognizers.trained_decoder import sizes_of_decoder
from arkasr.recognizers.trained_encoder import sizes_of_encoder
from arkasr.recognizers.whisper import WHISPER_PRESETS

PROMPT_TOKENS = len(BYTE_SYMBOLS) + 150  # a vocabulary large enough to write the prompts in whole words
# Published models: preset and changed sizes.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "AutoArk-AI/ARK-ASR-0.6B": ("ark-asr-0.6b", {"vocab_size": 163_958}),
    "AutoArk-AI/ARK-ASR-3B": (
        "ark-asr-0.6b",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "intermediate_size": 11_008,
            "vocab_size": 151_936,
        },
    ),
    **{
        f"openai/{preset}": (preset, {"vocab_size": 51_866 if "v3" in preset else 51_865}) for preset in WHISPER_PRESETS
    },
    **{f"openai/{preset}.en": (preset, {"vocab_size": 51_864}) for preset in list(WHISPER_PRESETS)[:4]},
    "Qwen/Qwen3-ASR-1.7B-hf": ("qwen3-asr-1.7b", {"text_config": {"vocab_size": 151_936}}),
    "Qwen/Qwen3-ASR-0.6B-hf": (
        "qwen3-asr-1.7b",
        {
            "text_config": {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072},
            "audio_config": {
                "d_model": 896,
                "encoder_layers": 18,
                "encoder_attention_heads": 14,
                "encoder_ffn_dim": 3584,
                "output_dim": 1024,
            },
        },
    ),
}


def empty_model(name: str, model: ModelSettings, tokenizer: TokenizerSettings | None) -> Recognizer:
    """A model that a recipe names.

    Raises:
        InputError: it is neither a preset, nor a published model, nor a folder with a model.
    """
    key = f"models.{name}"
    if model.preset is not None:
        return _new_model(key, model, tokenizer)
    assert model.pretrained is not None
    if model.pretrained in PUBLISHED:
        return _published(model.pretrained)
    return _from_folder(f"{key}.pretrained", model.pretrained)


def _new_model(key: str, model: ModelSettings, tokenizer: TokenizerSettings | None) -> Recognizer:
    """A model from a preset, with the sizes of its trained parts."""
    assert model.preset is not None
    sizes, tokens = model.sizes, PROMPT_TOKENS
    if model.encoder is not None:
        part = sizes_of_encoder(model.encoder, _config_of(f"{key}.encoder", model.encoder))
        sizes = with_part(sizes, part, f"{key}.sizes", model.encoder)
    if model.decoder is not None:
        config = _config_of(f"{key}.decoder", model.decoder)
        sizes = with_part(sizes, sizes_of_decoder(model.decoder, config), f"{key}.sizes", model.decoder)
        sizes = {"vocab_size": config.vocab_size} | sizes
    else:
        assert tokenizer is not None
        tokens = _most_tokens(tokenizer)
    return _preset(model.preset, sizes, tokens)


def _most_tokens(tokenizer: TokenizerSettings) -> int:
    """Tokens of the base vocabulary. Without a limit, a pruned one counts with all tokens of its model."""
    if tokenizer.vocab_size is not None:
        return tokenizer.vocab_size
    assert tokenizer.pruned_from is not None
    return int(_config_of("tokenizer.pruned_from", tokenizer.pruned_from).get_text_config().vocab_size)


def _config_of(key: str, name: str) -> PreTrainedConfig:
    """The config of a trained model that a key names."""
    if name in PUBLISHED:
        config: PreTrainedConfig = _published(name).model.config
        return config
    if not Path(name).is_dir():
        raise InputError(
            f"{key}: {name} is neither a folder nor a published model of known size ({', '.join(PUBLISHED)}); "
            f"download it and give its folder with --set {key}=FOLDER"
        )
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{key}: {name}: {first_line_of(error)}; give a folder written by arkasr") from error
    return config


@cache
def _published(name: str) -> Recognizer:
    preset, sizes = PUBLISHED[name]
    return _preset(preset, sizes, PROMPT_TOKENS)


def _preset(preset: str, sizes: dict[str, Any], tokens: int) -> Recognizer:
    """A preset with `tokens` tokens in its base vocabulary."""
    with init_empty_weights():
        recognizer = build_preset(preset, sizes, _vocabulary(tokens))
    recognizer.model.tie_weights()
    return recognizer


def _vocabulary(tokens: int) -> BaseVocabulary:
    """The tokens of the prompts, filled up to `tokens` with unused ones."""
    prompts = [INSTRUCTION, *PROMPT_WORDS]
    learned = train_base_vocabulary([INSTRUCTION], min(tokens, PROMPT_TOKENS), prompts)
    unused = {f"other-{token_id}": token_id for token_id in range(len(learned.token_to_id), tokens)}
    return BaseVocabulary(learned.token_to_id | unused, learned.merges)


def _from_folder(key: str, folder: str) -> Recognizer:
    _config_of(key, folder)
    try:
        return load_without_weights(folder)
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
