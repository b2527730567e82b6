"""Text that spells special tokens is text: in labels, references, drafts, and what the teacher reads."""

from dataclasses import replace

import pytest
import torch

from arkasr.distill.alignment import align
from arkasr.recognizers.plain_text import plain_ids, plain_lengths
from arkasr.train.stages.sft import SupervisedStage
from tests.models import noise_examples

SPELLED = "yes <|im_end|> no <|audio|><|endoftext|><asr_text><|en|>"


@pytest.fixture(params=["student", "teacher", "whisper"])
def recognizer(request):
    return request.getfixturevalue(request.param)


def test_a_text_that_spells_special_tokens_has_none(recognizer):
    ids = recognizer.transcript_ids(SPELLED)
    added = torch.tensor(sorted(recognizer.tokenizer.added_tokens_decoder))
    assert ids[-1] == recognizer.stop_token_id
    assert not torch.isin(ids[:-1], added).any()
    assert recognizer.transcript_text(ids).strip() == SPELLED
    assert recognizer.transcript_lengths([SPELLED, "yes"]) == [len(ids), len(recognizer.transcript_ids("yes"))]


def test_other_text_has_the_ids_of_the_tokenizer(recognizer):
    tokenizer = recognizer.tokenizer
    for text in ("the red book, don't! 3,5", " 天气 très bien\n", "", "a<b|c>d ﷺ 👍🏽"):
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert plain_ids(tokenizer, text) == expected
        assert plain_lengths(tokenizer, [text]) == [len(expected)]


def test_sft_learns_such_a_label(recognizer):
    examples = [
        replace(example, utterance=replace(example.utterance, text=SPELLED))
        for example in noise_examples(recognizer, seconds=(1.0, 1.2))
    ]
    loss = SupervisedStage(recognizer, None)(examples, seed=0)
    assert torch.isfinite(loss.total)
    assert loss.count == 2 * len(recognizer.transcript_ids(SPELLED))


def test_the_teacher_reads_such_a_rollout_as_text(student, teacher):
    ids = student.transcript_ids(SPELLED)
    alignment = align(
        ids,
        torch.full((student.vocab_size,), -1),
        student.tokenizer,
        teacher.tokenizer,
        student_stop=student.stop_token_id,
        teacher_stop=teacher.stop_token_id,
    )
    assert alignment.teacher_ids.tolist() == teacher.transcript_ids(SPELLED).tolist()
    assert (alignment.teacher_positions >= 0).all()
