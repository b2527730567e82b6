import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from arkasr.errors import InputError
from arkasr.model.allowed import allowed_tokens
from arkasr.teacher.vocabulary_mapping import map_vocabularies


def tokenizer(words, special=(), added=()):
    """A tokenizer with ids in the order of `words`, `special` and `added`."""
    vocabulary = {word: index for index, word in enumerate(words)}
    built = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token=words[0])))
    built.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    built.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    return built


@pytest.fixture
def student():
    return tokenizer(["a", "b", "c", "<s>"], special=["<|im_end|>", "<|user|>"], added=["<|audio|>", "d"])


@pytest.fixture
def teacher():
    words = ["x", "c", "b", "a", "<s>"]
    return tokenizer(words, special=["<|user|>", "<|end|>", "<|im_end|>"], added=["<asr_text>"])


def test_equal_token_strings_map_and_the_stop_tokens_map_to_each_other(student, teacher):
    result = map_vocabularies(
        student, teacher, student_stop=4, teacher_stop=6, student_vocab_size=10, teacher_vocab_size=12
    )
    assert result.teacher_to_student.tolist() == [-1, 2, 1, 0, 3, 5, 4, -1, -1, -1, -1, -1]
    assert result.student_to_teacher.tolist() == [3, 2, 1, 4, 6, 5, -1, -1, -1, -1]


def test_a_stop_token_does_not_map_to_an_equal_string(student, teacher):
    """The teacher has an `<|im_end|>`, but stops with `<|end|>`, which maps to the student's `<|im_end|>`."""
    result = map_vocabularies(
        student, teacher, student_stop=4, teacher_stop=6, student_vocab_size=8, teacher_vocab_size=9
    )
    assert teacher.convert_tokens_to_ids("<|im_end|>") == 7
    assert result.teacher_to_student[7].item() == -1
    assert result.teacher_to_student[6].item() == 4


def test_the_map_is_one_to_one_and_its_own_inverse(student, teacher):
    result = map_vocabularies(
        student, teacher, student_stop=4, teacher_stop=7, student_vocab_size=8, teacher_vocab_size=9
    )
    mapped = (result.teacher_to_student >= 0).nonzero().squeeze(1)
    assert torch.equal(result.student_to_teacher[result.teacher_to_student[mapped]], mapped)
    assert len(mapped) == (result.student_to_teacher >= 0).sum()


def test_tokens_beyond_the_logits_do_not_map(student, teacher):
    result = map_vocabularies(
        student, teacher, student_stop=1, teacher_stop=2, student_vocab_size=2, teacher_vocab_size=4
    )
    assert result.teacher_to_student.tolist() == [-1, -1, 1, 0]
    assert result.student_to_teacher.tolist() == [3, 2]


def test_permuted_vocabularies_map_completely():
    words = [f"word{n}" for n in range(50)]
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0)).tolist()
    result = map_vocabularies(
        tokenizer(words),
        tokenizer([words[index] for index in order]),
        student_stop=order[7],
        teacher_stop=7,
        student_vocab_size=50,
        teacher_vocab_size=50,
    )
    assert result.teacher_to_student.tolist() == order


def test_ordinary_tokens_and_the_stop_token_are_allowed(student, teacher):
    assert allowed_tokens(student, 10, stop_token_id=4).nonzero().squeeze(1).tolist() == [0, 1, 2, 3, 4, 7]
    assert allowed_tokens(teacher, 9, stop_token_id=6).nonzero().squeeze(1).tolist() == [0, 1, 2, 3, 4, 6]


def test_special_tokens_are_forbidden_and_plain_added_tokens_are_allowed():
    both = tokenizer(["a"], special=["[noise]", "<stop>"], added=["word", "<unit>"])
    assert allowed_tokens(both, 5, stop_token_id=2).tolist() == [True, False, True, True, False]


def test_ids_from_first_blocked_id_are_forbidden_except_the_stop_token(student):
    allowed = allowed_tokens(student, 10, stop_token_id=4, first_blocked_id=2)
    assert allowed.nonzero().squeeze(1).tolist() == [0, 1, 4]


def test_ids_without_a_token_are_forbidden(student):
    assert allowed_tokens(student, 100, stop_token_id=4).shape == (100,)
    assert not allowed_tokens(student, 100, stop_token_id=4)[8:].any()


def test_a_stop_token_outside_the_logits_is_an_error(student, teacher):
    with pytest.raises(InputError, match="stop token id 30 is outside the model's 10 logits"):
        allowed_tokens(student, 10, stop_token_id=30)
    with pytest.raises(InputError, match="stop token id 12 is outside the model's 12 logits"):
        map_vocabularies(
            student, teacher, student_stop=4, teacher_stop=12, student_vocab_size=10, teacher_vocab_size=12
        )
