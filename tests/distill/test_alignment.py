import random

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from arkasr.distill.alignment import Segment, align, align_by_bytes, byte_spans
from arkasr.errors import InputError
from arkasr.recognizers.token_bytes import token_bytes
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


def pair(student, teacher, ids, **options):
    """Align by bytes, as if no id had a counterpart."""
    unmapped = torch.full((len(student),), -1)
    stops = {"student_stop": student.eos_token_id, "teacher_stop": teacher.eos_token_id}
    return align(ids, unmapped, student, teacher, **stops, **options)


def blank(text):
    """The prefix of a family that begins with a blank."""
    return " " if text else ""


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


def random_text(generator, length):
    return "".join(generator.choice("aab cé你") for _ in range(length))


def random_tokenizer(generator):
    """A byte-level BPE of random words."""
    return byte_level(*(random_text(generator, generator.randint(2, 4)) for _ in range(12)))


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("writes_blank", ["neither", "teacher", "student"])
def test_segments_tile_the_unpaired_bytes_and_end_wherever_both_models_end_a_token(seed, writes_blank):
    generator = random.Random(seed)
    student, teacher = random_tokenizer(generator), random_tokenizer(generator)
    text = random_text(generator, 40).strip()
    options = {} if writes_blank == "neither" else {f"{writes_blank}_prefix": blank}
    ids = transcript(student, blank(text) + text if writes_blank == "student" else text)
    alignment = pair(student, teacher, ids, **options)
    ours, theirs = (token_bytes(*pair) for pair in ((student, ids.tolist()), (teacher, alignment.teacher_ids.tolist())))
    paired = {i: j for i, j in enumerate(alignment.teacher_positions.tolist()) if j >= 0}
    in_segments = [i for segment in alignment.segments for i in segment.student]
    in_teacher_segments = [j for segment in alignment.segments for j in segment.teacher]
    assert alignment.segments
    # A blank that is a token of its own in one model, before a paired token, is the only token outside.
    outside = set(range(len(ids))) - paired.keys() - set(in_segments)
    outside_teacher = set(range(len(theirs))) - set(paired.values()) - set(in_teacher_segments)
    assert outside == ({0} if writes_blank == "student" and ours[0] == b" " and 1 in paired else set())
    assert outside_teacher == ({0} if writes_blank == "teacher" and theirs[0] == b" " and 0 in paired else set())
    assert sorted([*paired, *in_segments, *outside]) == list(range(len(ids)))
    for segment in alignment.segments:
        mine, its = [ours[i] for i in segment.student], [theirs[j] for j in segment.teacher]
        differ_by_blank = writes_blank != "neither" and segment.student.start == 0
        assert b"".join(mine).strip() == b"".join(its).strip() if differ_by_blank else b"".join(mine) == b"".join(its)
        from_end = [{len(b"".join(part[k:])) for k in range(1, len(part))} for part in (mine, its)]
        assert not from_end[0] & from_end[1]


def test_the_segments_of_different_merges():
    student, teacher = byte_level("the", " c", "at"), byte_level("th", " cat")
    alignment = pair(student, teacher, transcript(student, "the cat"))
    assert alignment.segments == (Segment(range(1), range(2)), Segment(range(1, 3), range(2, 3)))
    assert pair(student, student, transcript(student, "the cat")).segments == ()


def test_the_first_token_forms_a_segment_with_the_blank_of_the_other_model():
    student, teacher = byte_level("The", " cat"), byte_level(" The", " cat")
    alignment = pair(student, teacher, transcript(student, "The cat"), teacher_prefix=blank)
    assert token_bytes(teacher, alignment.teacher_ids.tolist()) == [b" The", b" cat", b""]
    assert alignment.teacher_positions.tolist() == [-1, 1, 2]
    assert alignment.segments == (Segment(range(1), range(1)),)
    reverse = pair(teacher, student, transcript(teacher, " The cat"), student_prefix=blank)
    assert reverse.teacher_positions.tolist() == [-1, 1, 2]
    assert reverse.segments == (Segment(range(1), range(1)),)


def test_no_segment_ends_after_the_first_byte_that_differs():
    student, teacher = byte_level("ab", "cd"), byte_level()
    complete = transcript(student, "ab你cd")
    assert pair(student, teacher, complete).segments == (
        Segment(range(1), range(2)),
        Segment(range(4, 5), range(5, 7)),
    )
    broken = torch.cat([complete[:2], complete[3:]])
    assert pair(student, teacher, broken).segments == (Segment(range(1), range(2)),)


def test_no_segment_reaches_beyond_the_teachers_longest_transcript():
    student, teacher = byte_level("ab", "cd"), byte_level()
    ids = transcript(student, "abcd")
    first, second = Segment(range(1), range(2)), Segment(range(1, 2), range(2, 4))
    assert pair(student, teacher, ids, longest_transcript=4).segments == (first, second)
    assert pair(student, teacher, ids, longest_transcript=3).segments == (first,)
