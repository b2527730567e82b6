"""Operations against torch's own count of them on real models."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from arkasr.cost import work
from arkasr.cost.sizes import MEL_FRAMES_PER_SECOND, size_of
from arkasr.cost.work import Batch
from arkasr.distill.fused import fused_union_topk_kl
from arkasr.recognizers.head import top_tokens
from arkasr.recognizers.scoring import forced_logits, forced_states
from tests.models import noise_examples

SECONDS, TEXT = 4.0, "the red book is in london"
# Frames are rounded, queries do not see themselves twice, and the last token is not read: nothing else differs.
TOLERANCE = 0.03


@pytest.fixture
def batch(student):
    return Batch(3, SECONDS, len(student.transcript_ids(TEXT)))


def heard_by(recognizer):
    """Prompts and transcripts of a batch of equal clips, and attention in products that torch's counter knows."""
    recognizer.model.set_attn_implementation("eager")
    examples = noise_examples(recognizer, seconds=(SECONDS,) * 3, texts=[TEXT] * 3)
    prompts = recognizer.prompts([example.features[recognizer.frontend] for example in examples], ["English"] * 3)
    return prompts, [recognizer.transcript_ids(TEXT)] * 3


def counted(run):
    with FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_hearing_and_reading_take_the_operations_that_torch_counts(which, request, batch):
    recognizer = request.getfixturevalue(which)
    size = size_of(which, recognizer)
    prompts, transcripts = heard_by(recognizer)
    with torch.no_grad():
        operations, heard = counted(lambda: recognizer.embed_audio(prompts))
        assert work.encode(size, batch, mixed=False).operations == pytest.approx(operations, rel=TOLERANCE)
        operations, states = counted(lambda: forced_states(recognizer, heard, transcripts))
        assert work.read(size, batch, mixed=False).operations == pytest.approx(operations, rel=TOLERANCE)
        found = states[:, None].flatten(0, 1)
        operations, _ = counted(lambda: top_tokens(found.double(), recognizer.head.double(), None, 8, torch.float64))
        assert work.top(size, batch, mixed=False).operations == operations


def test_a_supervised_backward_pass_takes_the_operations_that_torch_counts(student, batch):
    phases = work.supervised(size_of("student", student), batch, mixed=False, checkpointing=False)
    prompts, transcripts = heard_by(student)
    forward, logits = counted(lambda: forced_logits(student, prompts, transcripts))
    assert (phases["encode"] + phases["student"]).operations == pytest.approx(forward, rel=TOLERANCE)
    backward, _ = counted(lambda: logits.sum().backward())
    # Features need no gradient, which spares the first convolution, small in a large model, its half.
    spared = 2 * student.audio_modules[0].whisper.conv1.weight.numel() * batch.audio * MEL_FRAMES_PER_SECOND
    assert phases["backward"].operations - spared == pytest.approx(backward, rel=TOLERANCE)


def test_activation_checkpointing_runs_the_forward_pass_once_more(student, batch):
    size = size_of("student", student)
    plain, again = (work.supervised(size, batch, mixed=False, checkpointing=value) for value in (False, True))
    once_more = work.encode(size, batch, mixed=False) + work.read(size, batch, mixed=False)
    assert again["backward"].operations == plain["backward"].operations + once_more.operations


def test_a_rollout_of_one_pass_reads_what_scoring_reads(student, batch):
    size = size_of("student", student)
    rollout = work.roll_out(size, batch, 1.0, drafted=True, mixed=False)
    scoring = work.read(size, batch, mixed=False) + work.top(size, batch, mixed=False)
    assert rollout.operations >= scoring.operations
    assert rollout.layers == size.decoder.layers


def test_more_passes_are_more_work(student, batch):
    size = size_of("student", student)
    few, many = (work.roll_out(size, batch, passes, drafted=True, mixed=False) for passes in (3.0, 30.0))
    assert many.layers == 10 * few.layers
    assert many.weights == 10 * few.weights
    assert many.traffic > few.traffic


def test_the_support_is_a_small_part_of_what_is_counted(student, teacher, batch):
    """What the plan leaves out of an OPD step: the scores on the union of both supports."""
    positions, top_k = int(batch.utterances * batch.tokens), 8
    torch.manual_seed(0)
    states = torch.randn(positions, student.embedding_size), torch.randn(positions, teacher.embedding_size)
    heads = student.head.detach(), teacher.head.detach()[: student.vocab_size]
    tops = [top_tokens(state, head, None, top_k, torch.float32) for state, head in zip(states, heads, strict=True)]
    left_out, _ = counted(
        lambda: fused_union_topk_kl(
            states[0], heads[0], states[1], heads[1], top_k=top_k, student_top=tops[0], teacher_top=tops[1]
        )
    )
    phases = work.distilled(
        size_of("s", student), size_of("t", teacher), batch, 3, drafted=True, mixed=False, checkpointing=False
    )
    assert left_out < 0.05 * sum(phase.operations for phase in phases.values())
