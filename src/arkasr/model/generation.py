"""What `generate` must know of a tokenizer: when to stop, what never to write, and how audio is asked about.

Kept in the generation config, so that plain `generate` and the speech recognition pipeline write what this package
writes. Knows nothing of weights.
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
    """A generation config that decodes greedily, allowed tokens only, until the stop token.

    Beside the fields that Transformers knows, two are set: `prompt_before_audio` and `prompt_after_audio`, the token
    ids around the audio placeholders (specification ark-asr-checkpoint, section 4).

    Args:
        config: what is not decided here is taken from it.
        tokenizer: with Ark-ASR's special tokens.
        vocab_size: V, width of the model's logits.

    Raises:
        InputError: the tokenizer is not one of Ark-ASR.
    """
    known = tokenizer.get_vocab()
    for token in SPECIAL_TOKENS[2:-1]:
        if token not in known:
            raise InputError(f"the tokenizer has no token {token}; take the one that belongs to an Ark-ASR model")
    stop_token_id = known[STOP_TOKEN]
    allowed = allowed_tokens(
        tokenizer,
        vocab_size,
        stop_token_id,
        first_blocked_id=FIRST_CODEC_TOKEN_ID if vocab_size > FIRST_CODEC_TOKEN_ID else None,
    )
    prompt = tokenizer(transcription_prompt(tokenizer), add_special_tokens=False)["input_ids"]
    place = prompt.index(known[AUDIO_TOKEN])
    fields: dict[str, Any] = {
        "eos_token_id": stop_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": MAX_NEW_TOKENS,
        "suppress_tokens": (~allowed).nonzero().squeeze(1).tolist(),
        "prompt_before_audio": prompt[:place],
        "prompt_after_audio": prompt[place + 1 :],
    }
    others = {name: value for name, value in config.to_diff_dict().items() if not name.startswith("_")}
    return GenerationConfig.from_dict(others | fields)
