"""The generation config of Ark-ASR: stop token, suppressed tokens and prompt, taken from a tokenizer.

With these fields, plain `generate` and the speech recognition pipeline write the same text as this package.
"""

from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from arkasr.errors import InputError
from arkasr.model.allowed import allowed_tokens
from arkasr.model.processor import AUDIO_TOKEN, SPECIAL_TOKENS, STOP_TOKEN, transcription_prompt

FIRST_CODEC_TOKEN_ID = 151_670  # 12,288 speech-codec tokens follow the text vocabulary of the published models
MAX_NEW_TOKENS = 256


def transcription_config(
    config: GenerationConfig, tokenizer: PreTrainedTokenizerBase, vocab_size: int
) -> GenerationConfig:
    """A generation config for greedy decoding of allowed tokens until the stop token.

    Besides Transformers' own fields it has `prompt_before_audio` and `prompt_after_audio`, the token
    ids around the audio placeholders, as in the published checkpoints.

    Args:
        config: gives all fields that are not set here.
        tokenizer: with Ark-ASR's special tokens.
        vocab_size: V, width of the model's logits.

    Raises:
        InputError: the tokenizer lacks a token of Ark-ASR.
    """
    vocabulary = tokenizer.get_vocab()
    for token in SPECIAL_TOKENS[2:-1]:
        if token not in vocabulary:
            raise InputError(f"the tokenizer has no token {token}; take the one that belongs to an Ark-ASR model")
    stop_token_id = vocabulary[STOP_TOKEN]
    allowed = allowed_tokens(
        tokenizer,
        vocab_size,
        stop_token_id,
        first_blocked_id=FIRST_CODEC_TOKEN_ID if vocab_size > FIRST_CODEC_TOKEN_ID else None,
    )
    prompt = tokenizer(transcription_prompt(tokenizer), add_special_tokens=False)["input_ids"]
    placeholder = prompt.index(vocabulary[AUDIO_TOKEN])
    fields: dict[str, Any] = {
        "eos_token_id": stop_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": MAX_NEW_TOKENS,
        "suppress_tokens": (~allowed).nonzero().squeeze(1).tolist(),
        "prompt_before_audio": prompt[:placeholder],
        "prompt_after_audio": prompt[placeholder + 1 :],
    }
    others = {name: value for name, value in config.to_diff_dict().items() if not name.startswith("_")}
    return GenerationConfig.from_dict(others | fields)
