"""OPD with `unpaired: pieces`, against a slow reference that goes through all tokens of the teacher one by one."""

import copy

import pytest
import torch

from arkasr.distill.objective import union_topk_kl
from arkasr.errors import InputError
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.scoring import forced_logits
from arkasr.recognizers.token_bytes import SYMBOL_OF, token_bytes
from arkasr.train.loop import train
from arkasr.train.stages.opd import DistillationStage
from tests.models import TEXTS
from tests.teacher.conftest import serve, server  # noqa: F401
from tests.train.opd import OBJECTIVE, log_probs, overfit, repeated, set_rollouts, step_with, text_ids
from tests.train.runs import SETTINGS
from tests.train.stream import Stream

PIECES = OBJECTIVE.model_copy(update={"unpaired": "pieces"})


@pytest.fixture
def fine(coarse):
    """A student with fewer merges than the teacher, so its tokens are shorter."""
    return coarse


@pytest.fixture
def fluent(student, noise_examples, tmp_path):
    """A teacher that knows the texts."""
    overfit(student, noise_examples(student), tmp_path)
    return student


def pieces_of(student, teacher, token, *, teacher_blank=False, student_blank=False):
    (content,) = token_bytes(teacher.tokenizer, [token])
    if teacher_blank:
        content = content.removeprefix(b" ")
    if student_blank:
        content = b" " + content
    if token == teacher.stop_token_id:
        return [student.stop_token_id]
    try:
        return student.tokenizer.encode(content.decode())
    except UnicodeDecodeError:  # a part of a character
        symbols = "".join(SYMBOL_OF[byte] for byte in content)
        return [found.id for found in student.tokenizer.backend_tokenizer.model.tokenize(symbols)]


def slow_teacher(student, teacher, example, text, **blanks):
    """Log-probabilities of the student's tokens at each position, and which positions count."""
    ids, teacher_ids = student.transcript_ids(text).tolist(), teacher.transcript_ids(text).tolist()
    theirs = log_probs(teacher, example, torch.tensor(teacher_ids)).detach().exp()
    rows, counted = torch.full((len(ids), student.vocab_size), -25.0), [False] * len(ids)
    done = 0
    for position, token in enumerate(teacher_ids):
        here = blanks if position == 0 else {}
        pieces = pieces_of(student, teacher, token, **here)
        assert ids[done : done + len(pieces)] == pieces, "the texts of these tests are cut alike"
        for depth in range(len(pieces)):
            masses = dict.fromkeys(range(student.vocab_size), 0.0)
            for other in teacher.allowed_tokens.nonzero()[:, 0].tolist():
                others = pieces_of(student, teacher, other, **here)
                if others[:depth] == pieces[:depth] and len(others) > depth:
                    masses[others[depth]] += float(theirs[position, other])
            total = sum(masses.values())
            for piece, mass in masses.items():
                rows[done + depth, piece] = max(-25.0, float(torch.tensor(mass / total).log()))
            counted[done + depth] = True
        done += len(pieces)
    assert done == len(ids)
    return rows, torch.tensor(counted)


def slow_loss(student, teacher, examples, texts, **blanks):
    total, count = torch.zeros(()), 0
    for example, text in zip(examples, texts, strict=True):
        ids = student.transcript_ids(text)
        rows, counted = slow_teacher(student, teacher, example, text, **blanks)
        prompts = student.prompts([example.features[student.frontend]], [example.utterance.language])
        result = union_topk_kl(
            forced_logits(student, prompts, [ids]),
            rows,
            top_k=PIECES.top_k,
            student_allowed=student.allowed_tokens,
            generated=ids.masked_fill(~counted, -1),
        )
        total, count = total + result.per_position.sum(), count + int(result.valid.sum())
    return total, count


def assert_equals_slow_reference(student, teacher, examples, texts, **blanks):
    found, gradient = step_with(student, teacher, PIECES, examples, texts)
    student.model.zero_grad()
    total, count = slow_loss(student, teacher, examples, texts, **blanks)
    assert found.count == count
    torch.testing.assert_close(found.total, total, rtol=1e-4, atol=1e-4)
    total.backward()
    gradients = [parameter.grad for parameter in student.model.parameters() if parameter.grad is not None]
    torch.testing.assert_close(gradient, torch.cat([part.flatten() for part in gradients]), rtol=1e-3, atol=1e-4)
    return found.metrics.values()


def test_every_piece_is_compared_with_all_tokens_that_go_on_with_it(fine, fluent, noise_examples):
    values = assert_equals_slow_reference(fine, fluent, noise_examples(fine)[:2], TEXTS[:2])
    assert values["teacher/paired_share"] == 1
    alignment = DistillationStage(fine, fluent, PIECES).tokens.align(fine.transcript_ids(TEXTS[0]))
    assert int(alignment.depths.max()) >= 1
    assert len(alignment.teacher_ids) < len(alignment.depths)


def test_characters_of_several_bytes(fine, fluent, noise_examples):
    assert_equals_slow_reference(fine, fluent, noise_examples(fine)[2:3], TEXTS[2:3])


def test_a_blank_that_only_the_teacher_writes_has_no_piece(student, whisper, noise_examples, tmp_path):
    examples = noise_examples(student, whisper)[:2]
    overfit(whisper, examples, tmp_path, steps=30)
    values = assert_equals_slow_reference(student, whisper, examples, TEXTS[:2], teacher_blank=True)
    assert values["teacher/paired_share"] == 1


def test_a_student_with_the_teachers_distribution_has_no_loss(student, noise_examples):
    other, same = copy.deepcopy(student), copy.deepcopy(student)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    examples = noise_examples(student)
    differing, large = step_with(other, student, PIECES, examples)
    found, gradient = step_with(same, student, PIECES, examples)
    assert found.metrics.values()["teacher/paired_share"] == 1
    assert found.count == differing.count
    assert found.total < 1e-6 * found.count < differing.total
    assert gradient.norm() < 1e-3 * large.norm()


def test_what_the_student_learns_from_pieces_alone(fine, fluent, noise_examples, tmp_path):
    """Its rollouts are the texts, and it learns to write them from the teacher's distribution."""
    examples = noise_examples(fine)
    stage = DistillationStage(fine, fluent, PIECES)
    set_rollouts(stage, TEXTS)
    settings = SETTINGS.model_copy(update={"steps": 60, "schedule": "constant"})
    train(stage, Stream([examples]), settings, tmp_path / "distilled", seed=0)
    prompts = fine.prompts([example.features[fine.frontend] for example in examples], [None] * len(examples))
    written = decode(fine, prompts, max_new_tokens=24)
    assert [fine.transcript_text(tokens) for tokens in written.tokens] == TEXTS


def test_tokens_that_are_no_pieces_and_all_that_follow_in_the_word_do_not_count(fine, fluent, noise_examples):
    """A rollout may spell a word in other tokens than the tokenizer."""
    text = TEXTS[0]
    canonical = fine.transcript_ids(text).tolist()
    index = next(i for i, token in enumerate(canonical) if len(token_bytes(fine.tokenizer, [token])[0]) == 2)
    (content,) = token_bytes(fine.tokenizer, [canonical[index]])
    halves = [fine.tokenizer.encode(chr(byte))[0] for byte in content]
    spelled = torch.tensor([*canonical[:index], *halves, *canonical[index + 1 :]])
    stage = DistillationStage(fine, fluent, PIECES)
    alignment = stage.tokens.align(spelled)
    counted = (alignment.teacher_positions >= 0).tolist()
    assert counted[:index] == [True] * index
    assert counted[index : index + 2] == [False, False]
    assert counted[-1]


@pytest.mark.parametrize("update", [{"tail": "bucket"}, {"support": "full"}, {"divergence": "reverse_kl"}])
def test_every_option_gives_a_finite_loss(fine, fluent, noise_examples, update):
    found, gradient = step_with(fine, fluent, PIECES.model_copy(update=update), noise_examples(fine))
    assert found.total > 0
    assert gradient.isfinite().all()


def test_a_rejected_piece_does_not_count_for_the_next(fine, student, noise_examples):
    examples, texts = noise_examples(fine)[:1], TEXTS[:1]
    rows, _ = slow_teacher(fine, student, examples[0], texts[0])
    own = rows.gather(1, fine.transcript_ids(texts[0])[:, None])[:-1, 0].exp()
    threshold = float(own.sort().values[len(own) // 2 - 1 : len(own) // 2 + 1].mean())
    everything, _ = step_with(fine, student, PIECES, examples, texts)
    found, _ = step_with(fine, student, PIECES.model_copy(update={"rejected_below": threshold}), examples, texts)
    assert everything.count - found.count == int((own < threshold).sum()) == len(own) // 2


def test_a_masked_loop_does_not_count(fine, fluent, noise_examples):
    examples, looping = noise_examples(fine)[:1], [repeated("red book in", 9)]
    kept, _ = step_with(fine, fluent, PIECES.model_copy(update={"looping": "keep"}), examples, looping)
    masked, _ = step_with(fine, fluent, PIECES, examples, looping)
    assert kept.count == len(text_ids(fine, looping[0])) + 1
    assert masked.count < kept.count / 4


def test_a_served_teacher_is_refused(fine, serve, server):  # noqa: F811
    with pytest.raises(InputError, match="`pieces` needs a teacher in the training process"):
        DistillationStage(fine, serve(server), PIECES)
