import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from arkasr.distill.alignment import align, align_by_bytes, byte_spans, token_bytes
from arkasr.errors import InputError
from arkasr.teacher.vocabulary_mapping import map_vocabularies

STOP = "<|im_end|>"


def byte_characters(text):
    """The text's bytes as the characters of a byte-level BPE."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]


def byte_level(*words, stop=STOP, normalizer=None):
    """A byte-level BPE of the 256 single bytes and the given words, merged left to right."""
    vocabulary = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in map(byte_characters, words):
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                vocabulary[word[:end]] = len(vocabulary)
                merges.append((word[: end - 1], word[end - 1]))
    core = Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    built = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=stop)
    built.add_tokens([AddedToken("<|other|>", special=True), AddedToken("Qwen", special=False, normalized=False)])
    return built


def transcript(tokenizer, text):
    return torch.tensor([*tokenizer.encode(text), tokenizer.eos_token_id])


def pair(student, teacher, ids):
    """Align by bytes, as if no id had a counterpart."""
    unmapped = torch.full((len(student),), -1)
    stops = {"student_stop": student.eos_token_id, "teacher_stop": teacher.eos_token_id}
    return align(ids, unmapped, student, teacher, **stops)


def test_token_bytes_add_up_to_the_text_even_for_parts_of_characters():
    tokenizer = byte_level(" the", "好")
    ids = tokenizer.encode(" the naïve 你好")
    pieces = token_bytes(tokenizer, ids)
    assert b"".join(pieces).decode() == " the naïve 你好"
    assert [piece for piece in pieces if len(piece) > 1] == [b" the", "好".encode()]
    assert pieces[-4:-1] == [b"\xe4", b"\xbd", b"\xa0"]


def test_spans_are_in_bytes_and_special_tokens_cover_none():
    tokenizer = byte_level("你")
    ids = [*tokenizer.encode("你Qwen"), tokenizer.eos_token_id]
    assert byte_spans(tokenizer, ids) == [(0, 3), (3, 7), (7, 7)]


def test_a_tokenizer_that_is_not_byte_level_is_an_error():
    words = Tokenizer(models.WordLevel({"▁the": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(InputError, match="not of a byte-level BPE"):
        token_bytes(PreTrainedTokenizerFast(tokenizer_object=words), [0])


def test_an_id_without_a_token_is_an_error():
    with pytest.raises(InputError, match="token 99999"):
        token_bytes(byte_level(), [99999])


def test_positions_that_cover_the_same_bytes_are_paired():
    student_spans = [(0, 2), (2, 3), (3, 6), (6, 6)]
    teacher_spans = [(0, 1), (1, 2), (2, 3), (3, 5), (5, 6), (6, 6)]
    assert align_by_bytes(student_spans, teacher_spans).tolist() == [-1, 2, -1, 5]
    assert align_by_bytes([], teacher_spans).tolist() == []


def test_equal_tokenizers_align_position_by_position():
    tokenizer = byte_level(" the", " cat", "你")
    ids = transcript(tokenizer, "see the cat 你")
    alignment = pair(tokenizer, tokenizer, ids)
    assert torch.equal(alignment.teacher_ids, ids)
    assert alignment.teacher_positions.tolist() == list(range(len(ids)))


def test_different_merges_are_paired_at_shared_tokens_only():
    student, teacher = byte_level("the", " c", "at"), byte_level("th", " cat")
    ids = transcript(student, "the cat")
    assert token_bytes(student, ids.tolist()) == [b"the", b" c", b"at", b""]
    alignment = pair(student, teacher, ids)
    assert token_bytes(teacher, alignment.teacher_ids.tolist()) == [b"th", b"e", b" cat", b""]
    assert alignment.teacher_positions.tolist() == [-1, -1, -1, 3]


def test_a_leading_space_is_part_of_its_token():
    student, teacher = byte_level(" cat", "a"), byte_level("cat")
    alignment = pair(student, teacher, transcript(student, "a cat"))
    assert token_bytes(teacher, alignment.teacher_ids.tolist()) == [b"a", b" ", b"cat", b""]
    assert alignment.teacher_positions.tolist() == [0, -1, 3]


def test_chinese_characters_that_one_tokenizer_splits():
    student, teacher = byte_level("世界"), byte_level("你", "好", "世", "界")
    ids = transcript(student, "你好世界")
    assert len(ids) == 3 + 3 + 1 + 1
    alignment = pair(student, teacher, ids)
    assert token_bytes(teacher, alignment.teacher_ids.tolist())[:2] == ["你".encode(), "好".encode()]
    assert alignment.teacher_positions.tolist() == [-1] * 7 + [4]


def test_the_teacher_gets_a_stop_token_only_if_the_student_generated_one():
    student, teacher = byte_level("the"), byte_level("the", stop="<|end|>")
    ids = transcript(student, "the a")
    alignment = pair(student, teacher, ids[:-1])
    assert alignment.teacher_positions.tolist() == [0, 1, 2]
    assert teacher.eos_token_id not in alignment.teacher_ids
    assert pair(student, teacher, ids).teacher_ids[-1].item() == teacher.eos_token_id


def test_an_empty_transcript():
    tokenizer = byte_level()
    stop_only = pair(tokenizer, tokenizer, transcript(tokenizer, ""))
    assert stop_only.teacher_positions.tolist() == [0]
    nothing = pair(tokenizer, tokenizer, torch.tensor([], dtype=torch.long))
    assert nothing.teacher_positions.tolist() == []


def test_after_an_unfinished_character_nothing_is_paired():
    """The decoded text has U+FFFD there, so all later offsets differ and the teacher reads another text."""
    tokenizer = byte_level()
    complete = transcript(tokenizer, "a你bcd")
    broken = torch.cat([complete[:3], complete[4:]])
    assert pair(tokenizer, tokenizer, broken).teacher_positions.tolist() == [0, -1, -1, -1, -1, -1, -1]


def test_after_a_normalised_character_nothing_is_paired():
    student, teacher = byte_level(), byte_level(normalizer=normalizers.NFC())
    ids = transcript(student, "xe\u0301y")
    alignment = pair(student, teacher, ids)
    assert alignment.teacher_positions.tolist() == [0, -1, -1, -1, -1, -1]


def test_ids_are_mapped_if_all_have_a_counterpart_and_retokenised_if_not():
    student, teacher = byte_level("the", " cat"), byte_level(" cat", "dog", "the", stop="<|end|>")
    stops = {"student_stop": student.eos_token_id, "teacher_stop": teacher.eos_token_id}
    sizes = {"student_vocab_size": len(student), "teacher_vocab_size": len(teacher)}
    vocabulary = map_vocabularies(student, teacher, **stops, **sizes)

    ids = transcript(student, "the cat")
    exact = align(ids, vocabulary.student_to_teacher, student, teacher, **stops)
    assert exact.teacher_ids.tolist() == transcript(teacher, "the cat").tolist()
    assert exact.teacher_ids.tolist() != ids.tolist()
    assert exact.teacher_positions.tolist() == list(range(len(ids)))
    assert not exact.retokenised

    nothing = align(ids[:0], vocabulary.student_to_teacher, student, teacher, **stops)
    assert nothing.teacher_ids.tolist() == []
    assert not nothing.retokenised

    swapped = {"student_stop": teacher.eos_token_id, "teacher_stop": student.eos_token_id}
    ids = transcript(teacher, "the dog")
    assert align(ids, vocabulary.teacher_to_student, teacher, student, **swapped).retokenised
