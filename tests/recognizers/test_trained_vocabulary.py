"""A vocabulary pruned from a trained model writes texts with the same token strings as the whole vocabulary."""

import json
import random
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer, WhisperTokenizer

from arkasr.distill.alignment import align
from arkasr.errors import InputError
from arkasr.model.layout import LAYOUTS
from arkasr.model.processor import SPECIAL_TOKENS
from arkasr.recipe.settings import TokenizerSettings
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.qwen3_asr import build_qwen3_asr
from arkasr.recognizers.tokenizer import BYTE_SYMBOLS, build_tokenizer, train_base_vocabulary
from arkasr.recognizers.tokenizer_check import check_tokenizer
from arkasr.recognizers.trained_vocabulary import base_vocabulary_of, load_vocabulary, prune
from arkasr.recognizers.whisper import build_whisper
from arkasr.run.starting_points import base_vocabulary
from arkasr.teacher.vocabulary_mapping import map_vocabularies
from tests.models import QWEN3_ASR_PRESETS, SMALL_STUDENT, SMALL_WHISPER

LINES = Path("docs/tour.md").read_text(encoding="utf-8").splitlines() + ["今天去北京", "我要一张票 no, 2 tickets"] * 3
TEXTS = [*LINES[::20], "the student", "The student's 3rd café", "今天去北京", "", "  two  blanks\t", "It'S", "today"]
UNSEEN = ["supercalifragilistic", "naïve Straße 12345", "日本語 ひと 🎉", "\u0000\u200b\n\r\n x", "THEY'RE"]
LLAMA_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


def whisper_tokenizer(learned):
    tokenizer = WhisperTokenizer(vocab=dict(learned.token_to_id), merges=list(learned.merges))
    tokenizer.add_tokens(["<|en|>", "<|0.00|>"])
    return tokenizer


def qwen_tokenizer(learned):
    return Qwen2Tokenizer(vocab=dict(learned.token_to_id), merges=list(learned.merges))


def llama_tokenizer(learned):
    """As converted from tiktoken: every split of a token is a merge, and a whole word that is a token stays whole."""
    rank, merges = learned.token_to_id, []
    for token in sorted(rank, key=rank.__getitem__):
        splits = [(token[:place], token[place:]) for place in range(1, len(token))]
        known = [pair for pair in splits if pair[0] in rank and pair[1] in rank]
        merges += sorted(known, key=lambda pair: (rank[pair[0]], rank[pair[1]]))
    unreachable = {"Ġstudenty": len(rank), "today": len(rank) + 1}
    backend = Tokenizer(BPE(vocab=rank | unreachable, merges=merges, ignore_merges=True))
    words = pre_tokenizers.Split(Regex(LLAMA_WORDS), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|begin_of_text|>")


@pytest.fixture(scope="module")
def learned():
    return train_base_vocabulary(LINES, 1200)


@pytest.fixture(params=[whisper_tokenizer, qwen_tokenizer, llama_tokenizer])
def whole(request, learned):
    return request.param(learned)


def strings(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


def pruned(whole, texts=TEXTS):
    base = prune(base_vocabulary_of(whole, "whole"), texts)
    return base, build_tokenizer(base, SPECIAL_TOKENS)


def test_texts_get_the_token_strings_of_the_whole_vocabulary(whole):
    base, tokenizer = pruned(whole)
    for text in TEXTS:
        assert strings(tokenizer, text) == strings(whole, text)
    assert 256 < len(base.token_to_id) < 0.7 * len(whole)
    assert base.token_to_id.keys() < whole.get_vocab().keys()
    assert list(base.token_to_id.values()) == list(range(len(base.token_to_id)))
    written = {token for text in TEXTS for token in strings(whole, text)}
    assert all(any(token in other for other in written) for token in base.token_to_id if len(token) > 1)


@pytest.mark.parametrize("size", [256, 300, 10_000])
def test_a_limited_vocabulary_keeps_the_first_merges_that_the_texts_need(whole, size):
    every, _ = pruned(whole)
    base = prune(base_vocabulary_of(whole, "whole"), TEXTS, size)
    if size > len(every.token_to_id):
        assert base == every
        return
    merges = [left + right for left, right in every.merges]
    assert base.token_to_id.keys() == BYTE_SYMBOLS | set(list(dict.fromkeys(merges))[: size - 256])
    assert len(base.token_to_id) == size
    tokenizer = build_tokenizer(base, SPECIAL_TOKENS)
    check_tokenizer(tokenizer, "it")  # every token can be written
    for text in TEXTS + UNSEEN:
        tokens = strings(tokenizer, text)
        assert len(tokens) >= len(strings(whole, text))
        assert "".join(tokens) == "".join(strings(whole, text))


def test_single_words_of_random_texts(whole, learned):
    """Many small prunings: a token that a merge needs on its way is missed only in some."""
    generator = random.Random(0)
    words = [word for line in LINES for word in line.split()]
    for _ in range(30):
        text = " ".join(generator.choices(words, k=3))
        _, tokenizer = pruned(whole, [text])
        assert strings(tokenizer, text) == strings(whole, text)


def test_any_text_returns_from_the_tokens(whole):
    _, tokenizer = pruned(whole)
    for text in TEXTS + UNSEEN + ["".join(map(chr, [*range(0x20, 0x600), *range(0x4E00, 0x4F00)]))]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        normal = unicodedata.normalize("NFC", text) if isinstance(whole, Qwen2Tokenizer) else text
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == normal


def test_special_tokens_follow_the_base_tokens(whole):
    base, tokenizer = pruned(whole)
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert ids == list(range(len(base.token_to_id), len(tokenizer)))
    assert tokenizer(f"{SPECIAL_TOKENS[3]}the", add_special_tokens=False)["input_ids"][0] == ids[3]


def test_the_whole_vocabulary_keeps_the_ids(learned):
    base = base_vocabulary_of(qwen_tokenizer(learned), "whole")
    assert base.token_to_id == learned.token_to_id
    assert base.merges == learned.merges


@pytest.mark.parametrize("layout", ["transformers", "published"])
def test_a_saved_model_has_the_same_tokenizer(whole, layout, tmp_path):
    base, _ = pruned(whole)
    student = build_ark_asr(SMALL_STUDENT, base)
    LAYOUTS[layout](student.model, student.processor, tmp_path, "5GB")
    expected = json.loads(student.tokenizer.backend_tokenizer.to_str())
    for loaded in (
        AutoTokenizer.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path).tokenizer,
        load_recognizer(tmp_path).tokenizer,
    ):
        assert json.loads(loaded.backend_tokenizer.to_str()) == expected
        assert (loaded.eos_token, loaded.pad_token, loaded.unk_token) == ("<|im_end|>", "<|endoftext|>", None)
        assert set(loaded("the")) == {"input_ids", "attention_mask"}


def test_the_other_families_take_a_pruned_vocabulary_that_fits_their_tokenizer(learned, tmp_path):
    base, _ = pruned(whisper_tokenizer(learned))
    for recognizer in (build_qwen3_asr(QWEN3_ASR_PRESETS["qwen3-asr-tiny"], base), build_whisper(SMALL_WHISPER, base)):
        recognizer.save(tmp_path / recognizer.model.config.model_type)
        loaded = load_recognizer(tmp_path / recognizer.model.config.model_type)
        for text in TEXTS:
            assert strings(loaded.tokenizer, text) == strings(whisper_tokenizer(learned), text)
    other, _ = pruned(qwen_tokenizer(learned))
    with pytest.raises(InputError, match=r"^tokenizer\.pruned_from: .*; prune the vocabulary of a Whisper model$"):
        build_whisper(SMALL_WHISPER, other)


def test_bytes_that_a_tokenizer_lacks_follow_its_tokens(learned):
    lacking = ["\u0104", "\u0143"]  # stand for the bytes 4 and 173
    symbols = [token for token in learned.token_to_id if token not in lacking]
    backend = llama_tokenizer(replace(learned, token_to_id={token: number for number, token in enumerate(symbols)}))
    base = base_vocabulary_of(backend, "whole")
    assert list(base.token_to_id)[-2:] == lacking
    tokenizer = build_tokenizer(base, SPECIAL_TOKENS)
    text = "the student\x04 \u00ad"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_tokenizer_without_bytes_is_refused():
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")))
    pieces = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE({"▁a": 0, "b": 1}, [], byte_fallback=True)))
    for tokenizer in (words, pieces):
        with pytest.raises(InputError, match=r"^model other: its tokenizer is not a byte-level BPE"):
            base_vocabulary_of(tokenizer, "other")


@pytest.fixture(scope="module")
def whisper_with_words(learned, tmp_path_factory):
    """A folder with a Whisper model that has all of the vocabulary."""
    folder = tmp_path_factory.mktemp("teacher")
    build_whisper(SMALL_WHISPER, learned).save(folder)
    return folder


def test_a_student_pruned_from_whisper_pairs_every_token_with_a_token_of_whisper(whisper_with_words, tmp_path):
    teacher = load_recognizer(whisper_with_words)
    base = base_vocabulary(TokenizerSettings(texts="L", pruned_from=str(whisper_with_words)), TEXTS)
    build_ark_asr(SMALL_STUDENT, base).save(tmp_path)
    student = load_recognizer(tmp_path)
    mapping = map_vocabularies(
        student.tokenizer,
        teacher.tokenizer,
        student_stop=student.stop_token_id,
        teacher_stop=teacher.stop_token_id,
        student_vocab_size=student.vocab_size,
        teacher_vocab_size=teacher.vocab_size,
    )
    assert (mapping.student_to_teacher[: len(base.token_to_id)] >= 0).all()
    for text in TEXTS:
        ids = student.transcript_ids(text)
        paired = align(
            ids,
            mapping.student_to_teacher,
            student.tokenizer,
            teacher.tokenizer,
            student_stop=student.stop_token_id,
            teacher_stop=teacher.stop_token_id,
            student_prefix=student.transcript_prefix,
            teacher_prefix=teacher.transcript_prefix,
        )
        assert not paired.retokenised
        assert torch.equal(paired.teacher_ids, teacher.transcript_ids(text))
        assert torch.equal(paired.teacher_positions, torch.arange(len(ids)))


def test_only_a_student_pruned_from_whisper_begins_with_a_blank(whisper_with_words, student, teacher, tmp_path):
    base = base_vocabulary(TokenizerSettings(texts="L", pruned_from=str(whisper_with_words)), TEXTS)
    begins = build_ark_asr(SMALL_STUDENT, base)
    for name, recognizer in {"blank": begins, "plain": student}.items():
        recognizer.save(tmp_path / name)
        LAYOUTS["published"](recognizer.model, recognizer.processor, tmp_path / f"{name}-published", "5GB")
    for name in ("blank", "blank-published"):
        assert json.loads((tmp_path / name / "processor_config.json").read_text())["leading_blank"] is True
        loaded = load_recognizer(tmp_path / name)
        assert loaded.transcript_text(loaded.transcript_ids("the student")) == " the student"
        assert loaded.transcript_prefix("今天") == ""
    for name in ("plain", "plain-published"):
        assert "leading_blank" not in json.loads((tmp_path / name / "processor_config.json").read_text())
        assert load_recognizer(tmp_path / name).transcript_prefix("the") == ""
    # A student of this student writes the blank too.
    assert load_vocabulary(str(tmp_path / "blank")).leading_blank
    teacher.save(tmp_path / "teacher")
    assert not load_vocabulary(str(tmp_path / "teacher")).leading_blank
