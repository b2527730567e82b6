"""The decoder of a Qwen2 or Llama text model, from which a new Ark-ASR model starts.

In: the name of a trained model. Out: its weights, and the config fields that an Ark-ASR model needs to hold them. The
vocabulary is left to `trained_vocabulary.py`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
)

from arkasr.errors import InputError
from arkasr.model.allowed import tokens_within
from arkasr.recognizers.ark_asr import ArkAsr
from arkasr.recognizers.load import input_errors, load_complete
from arkasr.recognizers.tokenizer import BYTE_SYMBOLS

# Ark-ASR's decoder is Qwen2's. Llama's is the same without biases of queries, keys and values.
DECODERS: dict[str, Any] = {"qwen2": Qwen2ForCausalLM, "llama": LlamaForCausalLM}
DECODER_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("hidden_act", "rms_norm_eps", "rope_parameters", "max_position_embeddings", "attention_dropout"),
    *("tie_word_embeddings", "initializer_range"),
)
QWEN2_SIZES = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")


class TrainedDecoder(NamedTuple):
    """A text model, float32 on the CPU.

    Attributes:
        sizes: the fields of `ArkAsrConfig` for it.
        model: the model with its head.
        tokenizer: its tokenizer.
    """

    sizes: dict[str, Any]
    model: Any
    tokenizer: PreTrainedTokenizerBase


def sizes_of_decoder(name: str, config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of `ArkAsrConfig` for the decoder of a Qwen2 or Llama model.

    Args:
        name: of the model, for messages.
        config: its config.

    Raises:
        InputError: it is another model, or has weights that Ark-ASR's decoder does not have.
    """
    if config.model_type not in DECODERS:
        raise InputError(
            f"model {name}: is of type {config.model_type!r}; the decoder of a new Ark-ASR model comes from one of "
            f"type {' or '.join(DECODERS)}"
        )
    width = config.hidden_size // config.num_attention_heads
    unfit = {
        "attention_bias": config.model_type == "llama" and config.attention_bias,
        "mlp_bias": getattr(config, "mlp_bias", False),
        "head_dim": (getattr(config, "head_dim", None) or width) != width,
    }
    if fields := [field for field, is_unfit in unfit.items() if is_unfit]:
        raise InputError(
            f"model {name}: has {fields[0]} {getattr(config, fields[0])}, which does not fit into Ark-ASR's decoder; "
            "take another one"
        )
    fields = [*DECODER_SIZES, *(QWEN2_SIZES if config.model_type == "qwen2" else ())]
    return {"rope_theta": config.rope_parameters["rope_theta"]} | {field: getattr(config, field) for field in fields}


def load_decoder(name: str, revision: str | None = None) -> TrainedDecoder:
    """A text model whose decoder a new Ark-ASR model can have.

    Args:
        name: a folder, or a repository on the model hub.
        revision: commit, tag or branch of a hub repository.

    Raises:
        InputError: the name has no complete model of a type in `DECODERS`.
    """
    source: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    with input_errors(name):
        config = AutoConfig.from_pretrained(name, **source)
        sizes = sizes_of_decoder(name, config)
        tokenizer = AutoTokenizer.from_pretrained(name, **source)
        model = load_complete(DECODERS[config.model_type], name, dtype=torch.float32, **source)
    return TrainedDecoder(sizes, model, tokenizer)


def copy_decoder(decoder: TrainedDecoder, recognizer: ArkAsr) -> None:
    """Copy a decoder, and the embedding and head of every token that both tokenizers have.

    Biases that the decoder does not have become zero. The family's own tokens keep their random weights, unless the
    trained model has a token with the same string. Single bytes that its tokenizer lacks keep theirs, too.

    Args:
        decoder: the trained model.
        recognizer: of the decoder's sizes, with base tokens of the decoder.

    Raises:
        InputError: the decoder has no embedding of a base token.
    """
    model, tokenizer = recognizer.model, recognizer.tokenizer
    rows = decoder.model.get_input_embeddings().weight
    source_id_of = tokens_within(decoder.tokenizer, len(rows))
    own_id_of = tokenizer.get_vocab()
    new = set(tokenizer.get_added_vocab()) | (BYTE_SYMBOLS - decoder.tokenizer.get_vocab().keys())
    if unknown := own_id_of.keys() - source_id_of.keys() - new:
        raise InputError(
            f"model {decoder.model.name_or_path}: has no embedding of the token {min(unknown)!r}; take weights and "
            "tokenizer from the same checkpoint"
        )
    common = sorted(own_id_of.keys() & source_id_of.keys())
    own_ids, source_ids = (torch.tensor([ids[token] for token in common]) for ids in (own_id_of, source_id_of))
    own = model.model.state_dict()
    weights = {name: torch.zeros_like(tensor) for name, tensor in own.items() if name.endswith("bias")}
    weights |= decoder.model.model.state_dict()
    weights["embed_tokens.weight"] = _with_rows(own["embed_tokens.weight"], own_ids, rows[source_ids])
    model.model.load_state_dict(weights)
    if not model.config.tie_word_embeddings:
        head = decoder.model.get_output_embeddings().weight
        model.lm_head.load_state_dict({"weight": _with_rows(model.lm_head.weight, own_ids, head[source_ids])})


def _with_rows(weight: Tensor, indices: Tensor, rows: Tensor) -> Tensor:
    return weight.detach().index_copy(0, indices, rows.detach())
