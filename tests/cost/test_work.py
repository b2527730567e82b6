"""Counted operations against those that torch counts on real models."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from arkasr.cost import work
from arkasr.cost.sizes import MEL_FRAMES_PER_SECOND, size_of
from arkasr.cost.work import Batch, Decoding
from arkasr.distill.fused import fused_union_topk_kl
from arkasr.recognizers.head import top_tokens
from arkasr.recognizers.scoring import forced_logits, forced_states
from arkasr.train.parts import freeze_parts
from tests.models import noise_examples
from tests.train.runs import SETTINGS

SECONDS, TEXT = 4.0, "the red book is in london"
# The estimate does not round frames, and counts the last token, which the decoder does not read.
TOLERANCE = 0.03


@pytest.fixture
def batch(student):
    return Batch(3, SECONDS, len(student.transcript_ids(TEXT)))


def equal_utterances(recognizer):
    """Prompts and transcripts of a batch; attention runs as matrix products, which torch counts."""
    recognizer.model.set_attn_implementation("eager")
    examples = noise_examples(recognizer, seconds=(SECONDS,) * 3, texts=[TEXT] * 3)
    prompts = recognizer.prompts([example.features[recognizer.frontend] for example in examples], ["English"] * 3)
    return prompts, [recognizer.transcript_ids(TEXT)] * 3


def counted(run):
    with FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_encoder_decoder_and_head_take_the_operations_that_torch_counts(which, request, batch):
    recognizer = request.getfixturevalue(which)
    size = size_of(recognizer)
    prompts, transcripts = equal_utterances(recognizer)
    with torch.no_grad():
        operations, encoded = counted(lambda: recognizer.embed_audio(prompts))
        assert work.encoder_pass(size, batch, mixed=False).operations == pytest.approx(operations, rel=TOLERANCE)
        operations, states = counted(lambda: forced_states(recognizer, encoded, transcripts))
        assert work.decoder_pass(size, batch, mixed=False).operations == pytest.approx(operations, rel=TOLERANCE)
        operations, _ = counted(lambda: top_tokens(states.double(), recognizer.head.double(), None, 8, torch.float64))
        assert work.top_token_search(size, batch, mixed=False).operations == operations


@pytest.mark.parametrize("frozen", [[], ["encoder"], ["decoder"], ["embeddings"]], ids="+".join)
def test_the_backward_pass_of_sft_takes_the_operations_that_torch_counts(student, batch, frozen):
    freeze_parts(student, SETTINGS.model_copy(update={"freeze": frozen}))
    size = replace(size_of(student), frozen=frozenset(frozen))
    phases = work.sft_phases(size, batch, mixed=False, checkpointing=False)
    prompts, transcripts = equal_utterances(student)
    forward, logits = counted(lambda: forced_logits(student, prompts, transcripts))
    assert (phases["encode"] + phases["student"]).operations == pytest.approx(forward, rel=TOLERANCE)
    backward, _ = counted(lambda: logits.sum().backward())
    estimated = phases["backward"].operations
    encoder, audio_tokens = student.audio_modules[0], batch.audio * size.audio_tokens_per_second
    # An input that needs no gradient halves the operations: of the first convolution, or of the adapter's first layer.
    if "encoder" in frozen:
        estimated += 2 * audio_tokens * (encoder.adapting[0].weight.numel() + 2 * encoder.adapting[2].weight.numel())
    else:
        estimated -= 2 * encoder.whisper.conv1.weight.numel() * batch.audio * MEL_FRAMES_PER_SECOND
    assert estimated == pytest.approx(backward, rel=TOLERANCE)


def test_activation_checkpointing_repeats_the_forward_pass(student, batch):
    size = size_of(student)
    without, repeated = (work.sft_phases(size, batch, mixed=False, checkpointing=value) for value in (False, True))
    forward = work.encoder_pass(size, batch, mixed=False) + work.decoder_pass(size, batch, mixed=False)
    assert repeated["backward"].operations == without["backward"].operations + forward.operations


def test_a_rollout_of_one_pass_takes_at_least_the_work_of_scoring(student, batch):
    size = size_of(student)
    rollout = work.rollout(size, batch, Decoding(1.0, drafted=True), mixed=False)
    scoring = work.decoder_pass(size, batch, mixed=False) + work.top_token_search(size, batch, mixed=False)
    assert rollout.operations >= scoring.operations
    assert rollout.layers == size.decoder.layers


def test_more_passes_are_more_work(student, batch):
    size = size_of(student)
    few, many = (work.rollout(size, batch, Decoding(passes, drafted=True), mixed=False) for passes in (3.0, 30.0))
    assert many.layers == 10 * few.layers
    assert many.weights == 10 * few.weights
    assert many.traffic > few.traffic


def test_the_logits_on_the_support_are_a_small_part_of_a_step(student, teacher, batch):
    """The estimate does not count the logits on the union of both supports."""
    positions, top_k = int(batch.utterances * batch.tokens), 8
    torch.manual_seed(0)
    states = torch.randn(positions, student.embedding_size), torch.randn(positions, teacher.embedding_size)
    heads = student.head.detach(), teacher.head.detach()[: student.vocab_size]
    tops = [top_tokens(state, head, None, top_k, torch.float32) for state, head in zip(states, heads, strict=True)]
    not_counted, _ = counted(
        lambda: fused_union_topk_kl(
            states[0], heads[0], states[1], heads[1], top_k=top_k, student_top=tops[0], teacher_top=tops[1]
        )
    )
    phases = work.opd_phases(
        size_of(student), size_of(teacher), batch, Decoding(3, drafted=True), mixed=False, checkpointing=False
    )
    assert not_counted < 0.05 * sum(phase.operations for phase in phases.values())
