import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from arkasr.distill.alignment import align_by_bytes, byte_spans, map_transcript, retokenise, token_bytes
from arkasr.errors import InputError
from arkasr.teacher.vocabulary import map_vocabularies

STOP = "<|im_end|>"


def in_bytes(text):
    """The text in the characters that byte-level BPE writes for its bytes."""
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]


def byte_level(*words, stop=STOP, normalizer=None):
    """A byte-level BPE that merges exactly the given words, left to right, besides its 256 single bytes."""
    vocabulary = {symbol: place for place, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in map(in_bytes, words):
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


def align(student, teacher, ids):
    return retokenise(ids, student, teacher, student_stop=student.eos_token_id, teacher_stop=teacher.eos_token_id)


def test_token_bytes_spell_the_text_even_where_a_token_is_a_piece_of_a_character():
    tokenizer = byte_level(" the", "好")
    ids = tokenizer.encode(" the naïve 你好")
    pieces = token_bytes(tokenizer, ids)
    assert b"".join(pieces).decode() == " the naïve 你好"
    assert [piece for piece in pieces if len(piece) > 1] == [b" the", "好".encode()]
    assert pieces[-4:-1] == [b"\xe4", b"\xbd", b"\xa0"]


def test_spans_count_bytes_and_special_tokens_cover_none():
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


def test_positions_meet_where_they_cover_the_same_bytes():
    student_spans = [(0, 2), (2, 3), (3, 6), (6, 6)]
    teacher_spans = [(0, 1), (1, 2), (2, 3), (3, 5), (5, 6), (6, 6)]
    assert align_by_bytes(student_spans, teacher_spans).tolist() == [-1, 2, -1, 5]
    assert align_by_bytes([], teacher_spans).tolist() == []


def test_equal_tokenizers_align_position_by_position():
    tokenizer = byte_level(" the", " cat", "你")
    ids = transcript(tokenizer, "see the cat 你")
    alignment = align(tokenizer, tokenizer, ids)
    assert torch.equal(alignment.teacher_ids, ids)
    assert alignment.teacher_positions.tolist() == list(range(len(ids)))
    assert alignment.mismatch_rate == 0


def test_different_merges_meet_at_the_tokens_they_share():
    student, teacher = byte_level("the", " c", "at"), byte_level("th", " cat")
    ids = transcript(student, "the cat")
    assert token_bytes(student, ids.tolist()) == [b"the", b" c", b"at", b""]
    alignment = align(student, teacher, ids)
    assert token_bytes(teacher, alignment.teacher_ids.tolist()) == [b"th", b"e", b" cat", b""]
    assert alignment.teacher_positions.tolist() == [-1, -1, -1, 3]
    assert alignment.mismatch_rate == pytest.approx(3 / 4)


def test_a_leading_space_belongs_to_its_token():
    student, teacher = byte_level(" cat", "a"), byte_level("cat")
    alignment = align(student, teacher, transcript(student, "a cat"))
    assert token_bytes(teacher, alignment.teacher_ids.tolist()) == [b"a", b" ", b"cat", b""]
    assert alignment.teacher_positions.tolist() == [0, -1, 3]


def test_chinese_characters_in_pieces_on_one_side():
    student, teacher = byte_level("世界"), byte_level("你", "好", "世", "界")
    ids = transcript(student, "你好世界")
    assert len(ids) == 3 + 3 + 1 + 1
    alignment = align(student, teacher, ids)
    assert token_bytes(teacher, alignment.teacher_ids.tolist())[:2] == ["你".encode(), "好".encode()]
    assert alignment.teacher_positions.tolist() == [-1] * 7 + [4]


def test_without_the_students_stop_token_the_teacher_gets_none():
    student, teacher = byte_level("the"), byte_level("the", stop="<|end|>")
    ids = transcript(student, "the a")
    alignment = align(student, teacher, ids[:-1])
    assert alignment.teacher_positions.tolist() == [0, 1, 2]
    assert teacher.eos_token_id not in alignment.teacher_ids
    assert align(student, teacher, ids).teacher_ids[-1].item() == teacher.eos_token_id


def test_an_empty_transcript():
    tokenizer = byte_level()
    stop_only = align(tokenizer, tokenizer, transcript(tokenizer, ""))
    assert stop_only.teacher_positions.tolist() == [0]
    nothing = align(tokenizer, tokenizer, torch.tensor([], dtype=torch.long))
    assert nothing.teacher_positions.tolist() == []
    assert nothing.mismatch_rate == 0


def test_after_an_unfinished_character_nothing_is_paired():
    """The decoded text has U+FFFD there: all later offsets differ, and so does what the teacher has read."""
    tokenizer = byte_level()
    whole = transcript(tokenizer, "a你bcd")
    broken = torch.cat([whole[:3], whole[4:]])
    assert align(tokenizer, tokenizer, broken).teacher_positions.tolist() == [0, -1, -1, -1, -1, -1, -1]


def test_after_a_normalised_character_nothing_is_paired():
    student, teacher = byte_level(), byte_level(normalizer=normalizers.NFC())
    ids = transcript(student, "xe\u0301y")
    alignment = align(student, teacher, ids)
    assert alignment.teacher_positions.tolist() == [0, -1, -1, -1, -1, -1]


def test_the_exact_route_maps_every_id_or_says_that_it_cannot():
    student, teacher = byte_level("the", " cat"), byte_level(" cat", "dog", "the", stop="<|end|>")
    vocabulary = map_vocabularies(
        student,
        teacher,
        student_stop=student.eos_token_id,
        teacher_stop=teacher.eos_token_id,
        student_vocab_size=len(student),
        teacher_vocab_size=len(teacher),
    )
    ids = transcript(student, "the cat")
    mapped = map_transcript(ids, vocabulary)
    assert mapped.tolist() == transcript(teacher, "the cat").tolist()
    assert mapped.tolist() != ids.tolist()
    back = map_vocabularies(
        teacher,
        student,
        student_stop=teacher.eos_token_id,
        teacher_stop=student.eos_token_id,
        student_vocab_size=len(teacher),
        teacher_vocab_size=len(student),
    )
    assert map_transcript(transcript(teacher, "the dog"), back) is None
    assert map_transcript(torch.tensor([], dtype=torch.long), vocabulary).tolist() == []
