"""A new Ark-ASR model with the decoder of a text model computes what the text model computes on text."""

import json

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from arkasr.errors import InputError
from arkasr.model.layout import LAYOUTS
from arkasr.recipe.settings import ModelSettings, TokenizerSettings
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.tokenizer import BaseVocabulary, build_tokenizer
from arkasr.run.starting_points import base_vocabulary, new_model
from tests.models import TEXTS, small_vocabulary

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
VARIANTS = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
    "qwen2 with an own head and windows": (
        Qwen2ForCausalLM,
        Qwen2Config,
        {"tie_word_embeddings": False, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "llama": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False, "rms_norm_eps": 1e-5}),
    "llama 3": (
        LlamaForCausalLM,
        LlamaConfig,
        {
            "tie_word_embeddings": True,
            "rope_parameters": LLAMA3 | {"rope_theta": 5e5, "original_max_position_embeddings": 32},
        },
    ),
}


def write_text_model(folder, variant="qwen2", **changes):
    """A text model whose head is wider than its tokenizer, with weights at which every part has an effect."""
    model_class, config_class, fields = VARIANTS[variant]
    tokenizer = build_tokenizer(small_vocabulary(), ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>"])
    torch.manual_seed(5)
    model = model_class(config_class(**SIZES | fields | {"vocab_size": len(tokenizer) + 7} | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval(), tokenizer


def student_of(folder, vocabulary=None, **keys):
    model = ModelSettings(preset="ark-asr-tiny", decoder=str(folder), **keys)
    return new_model("student", model, vocabulary, 0, torch.device("cpu"))


def assert_same_logits(student, model, tokenizer, texts):
    """On texts, the student's base tokens have the logits that the text model gives to the same strings."""
    own, source = student.tokenizer.get_vocab(), tokenizer.get_vocab()
    common = [token for token in own if token in source]
    for text in texts:
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        assert tokens == student.tokenizer.convert_ids_to_tokens(
            student.tokenizer(text, add_special_tokens=False)["input_ids"]
        )
        with torch.no_grad():
            found, expected = (
                network(input_ids=torch.tensor([[ids[token] for token in tokens]])).logits[0]
                for network, ids in ((student.model, own), (model, source))
            )
        columns = [[ids[token] for token in common] for ids in (own, source)]
        torch.testing.assert_close(found[:, columns[0]], expected[:, columns[1]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["transformers", "published"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_on_text_equal_those_of_the_text_model(variant, layout, tmp_path):
    model, tokenizer = write_text_model(tmp_path / "text", variant)
    (tmp_path / "saved").mkdir()
    student = student_of(tmp_path / "text")
    LAYOUTS[layout](student.model, student.processor, tmp_path / "saved", "5GB")
    for recognizer in (student, load_recognizer(tmp_path / "saved")):
        assert_same_logits(recognizer, model, tokenizer, TEXTS)


def test_the_whole_vocabulary_is_kept_with_its_ids(tmp_path):
    _, tokenizer = write_text_model(tmp_path)
    student = student_of(tmp_path)
    base = small_vocabulary().token_to_id
    assert {token: student.tokenizer.get_vocab()[token] for token in base} == base
    assert student.vocab_size == len(student.tokenizer)
    assert "<tool>" not in student.tokenizer.get_vocab()
    text = "Two Apples  please 今天"
    ids = student.transcript_ids(text)[:-1].tolist()
    assert ids == tokenizer(text)["input_ids"]


def test_a_pruned_vocabulary_selects_the_rows_of_its_tokens(tmp_path):
    for variant in ("qwen2", "llama"):
        folder = tmp_path / variant
        model, tokenizer = write_text_model(folder, variant)
        pruned = base_vocabulary(TokenizerSettings(texts="L", pruned_from=str(folder)), TEXTS[:2])
        assert len(pruned.token_to_id) < len(small_vocabulary().token_to_id)
        student = student_of(folder, pruned)
        assert_same_logits(student, model, tokenizer, TEXTS[:2])
        row = student.model.model.embed_tokens.weight[student.stop_token_id]
        assert torch.equal(row, model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("<|im_end|>")])


def test_a_byte_that_the_text_model_lacks_gets_a_random_embedding(tmp_path):
    model, _ = write_text_model(tmp_path, "llama")
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    lacking = "Ă"  # stands for the byte 2
    document["model"]["vocab"]["replaced"] = document["model"]["vocab"].pop(lacking)
    path.write_text(json.dumps(document))
    student = student_of(tmp_path)
    assert student.transcript_text(student.transcript_ids("a\x02b")[:-1]) == "a\x02b"
    assert_same_logits(student, model, AutoTokenizer.from_pretrained(tmp_path), TEXTS)
    row = student.model.model.embed_tokens.weight[student.tokenizer.get_vocab()[lacking]]
    assert not torch.isin(row, model.model.embed_tokens.weight).any()


def test_encoder_and_decoder_together(tmp_path, whisper_folder):
    model, tokenizer = write_text_model(tmp_path)
    student = student_of(tmp_path, encoder=str(whisper_folder))
    assert_same_logits(student, model, tokenizer, TEXTS)
    assert student.model.config.whisper_config.d_model == 48
    assert not student.model.config.use_rope


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        ("llama", {"attention_bias": True}, "has attention_bias True, which does not fit into Ark-ASR's decoder"),
        ("llama", {"mlp_bias": True}, "has mlp_bias True, which does not fit into Ark-ASR's decoder; take another one"),
        ("llama", {"head_dim": 16}, "has head_dim 16, which does not fit into Ark-ASR's decoder; take another one"),
        ("qwen2", {"vocab_size": 300}, "has no embedding of the token"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, variant, changes, message):
    write_text_model(tmp_path, variant, **changes)
    with pytest.raises(InputError) as refused:
        student_of(tmp_path)
    assert str(refused.value).startswith(f"model {tmp_path}: {message}")


def test_other_architectures_tokenizers_and_sizes_are_refused(tmp_path, teacher, whisper_folder):
    for folder, kind in ((tmp_path / "teacher", "qwen3_asr"), (whisper_folder, "whisper")):
        if kind == "qwen3_asr":
            teacher.save(folder)
        with pytest.raises(
            InputError, match=f"is of type '{kind}'; the decoder .* comes from one of type qwen2 or llama"
        ):
            student_of(folder)
    write_text_model(tmp_path / "text")
    with pytest.raises(
        InputError, match=r"^models\.student\.sizes\.hidden_size: is 96, but .* has 32; remove the key$"
    ):
        student_of(tmp_path / "text", sizes={"hidden_size": 96})
    with pytest.raises(InputError, match=r"^models\.student\.sizes\.rope_theta: is 7\.0, but .*; remove the key$"):
        student_of(tmp_path / "text", sizes={"rope_theta": 7.0})
    document = json.loads((tmp_path / "text" / "tokenizer.json").read_text())
    document["model"] |= {"vocab": {"▁a": 0, "b": 1}, "merges": [], "byte_fallback": True}
    document["pre_tokenizer"] = None
    (tmp_path / "text" / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="its tokenizer is not a byte-level BPE"):
        student_of(tmp_path / "text")


def test_a_vocabulary_that_reaches_the_codec_tokens_is_refused(tmp_path):
    base = small_vocabulary()
    tokens = base.token_to_id | {f"other-{number}": number for number in range(len(base.token_to_id), 151_671)}
    settings = ModelSettings(preset="ark-asr-tiny")
    with pytest.raises(
        InputError, match=r"^the vocabulary has 151,671 tokens; .*; prune it with tokenizer\.pruned_from"
    ):
        new_model("student", settings, BaseVocabulary(tokens, base.merges), 0, torch.device("cpu"))
