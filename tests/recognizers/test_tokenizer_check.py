import json

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from arkasr.errors import InputError
from arkasr.recognizers.tokenizer_check import check_tokenizer
from arkasr.train.stages.sft import SupervisedStage


def without_merge(tokenizer, index):
    """The tokenizer without one of its merges, as in a damaged file."""
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    del document["model"]["merges"][index]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(document)))


@pytest.mark.parametrize("family", ["student", "teacher", "whisper"])
def test_whole_tokenizers_pass(family, request):
    check_tokenizer(request.getfixturevalue(family).tokenizer, family)


def test_a_lost_merge_is_named_with_what_needs_it(student):
    merges = json.loads(student.tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    first = "".join(merges[0])
    need = sum(first in pair for pair in merges)
    assert need > 1
    damaged = without_merge(student.tokenizer, 0)
    text = student.tokenizer.convert_tokens_to_string([first])
    assert damaged.tokenize(text) == list(merges[0])
    with pytest.raises(InputError, match="no merge makes the token") as error:
        check_tokenizer(damaged, "the teacher")
    assert repr(text) in str(error.value)
    others = int(str(error.value).split("nor ")[1].split()[0])
    assert others >= need


def test_a_damaged_student_is_not_trained(student):
    student.processor.tokenizer = without_merge(student.tokenizer, 0)
    with pytest.raises(InputError, match="tokenizer of the student"):
        SupervisedStage(student, None)
