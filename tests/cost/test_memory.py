"""Bytes against those of real tensors."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from arkasr.cost import memory
from arkasr.cost.sizes import size_of, size_of_model
from arkasr.cost.work import Batch
from arkasr.recipe.settings import ModelSettings
from arkasr.recognizers.ark_asr import ARK_ASR_PRESETS, build_ark_asr
from arkasr.recognizers.scoring import forced_states
from arkasr.train.optimizer import build_optimizers
from tests.models import hear_noise
from tests.train.runs import SETTINGS


@pytest.fixture(scope="module")
def tiny(vocabulary):
    """A student whose key heads are fewer than its query heads, as in the published ones."""
    torch.manual_seed(0)
    return build_ark_asr(ARK_ASR_PRESETS["ark-asr-tiny"] | {"num_key_value_heads": 1}, vocabulary)


SECONDS, TEXT = 4.0, "the red book is in london"


def heard_by(recognizer):
    examples = hear_noise(recognizer, seconds=(SECONDS,) * 3, texts=[TEXT] * 3)
    prompts = recognizer.prompts([example.features[recognizer.frontend] for example in examples], ["English"] * 3)
    return prompts, [recognizer.transcript_ids(TEXT)] * 3


def kept_by(run, parameters):
    """Bytes of all storages that a forward pass keeps for the backward one, weights and their casts left out."""
    shapes = {tuple(parameter.shape) for parameter in parameters}
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        is_cast = tensor.dim() == 2 and (tuple(tensor.shape) in shapes or tuple(tensor.T.shape) in shapes)
        if storage.data_ptr() not in weights and not is_cast:
            storages[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    return sum(storage.nbytes() for storage in storages.values()), result


def test_weights_gradients_and_moments_take_the_bytes_of_the_real_tensors(student):
    (optimizer,) = build_optimizers(student.model, SETTINGS)
    for parameter in student.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    items = memory.student_memory(size_of("student", student), shares=1, mixed=False)
    assert items == {
        "weights": sum(parameter.nbytes for parameter in student.model.parameters()),
        "gradients": sum(parameter.grad.nbytes for parameter in student.model.parameters()),
        "moments": sum(moment.nbytes for moment in moments),
    }


@pytest.mark.parametrize("mixed", [False, True])
def test_activations_take_the_bytes_that_a_forward_pass_keeps(tiny, mixed):
    prompts, transcripts = heard_by(tiny)
    parameters = list(tiny.model.parameters())
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        kept, _ = kept_by(lambda: forced_states(tiny, tiny.embed_audio(prompts), transcripts), parameters)
    batch = Batch(3, SECONDS, len(transcripts[0]))
    planned = memory.kept_for_backward(size_of("tiny", tiny), batch, mixed=mixed, checkpointing=False)
    # The convolutions and the map to the decoder, which are not counted, are a large part of a model of five layers.
    assert 0.75 * kept < planned < kept


def test_each_layer_keeps_the_bytes_planned_for_it(vocabulary):
    """What is common to models of one and of two layers falls out of the difference."""
    kept, planned = [], []
    for layers in (1, 2):
        whisper = ARK_ASR_PRESETS["ark-asr-tiny"]["whisper_config"] | {"encoder_layers": layers}
        sizes = ARK_ASR_PRESETS["ark-asr-tiny"] | {"num_hidden_layers": layers, "whisper_config": whisper}
        student = build_ark_asr(sizes, vocabulary)
        prompts, transcripts = heard_by(student)
        parameters = list(student.model.parameters())
        bytes_kept, _ = kept_by(
            lambda student=student, prompts=prompts, transcripts=transcripts: forced_states(
                student, student.embed_audio(prompts), transcripts
            ),
            parameters,
        )
        kept.append(bytes_kept)
        batch = Batch(3, SECONDS, len(transcripts[0]))
        planned.append(memory.kept_for_backward(size_of("x", student), batch, mixed=False, checkpointing=False))
    assert planned[1] - planned[0] == pytest.approx(kept[1] - kept[0], rel=0.02)


def test_activation_checkpointing_keeps_less(tiny):
    size, batch = size_of("tiny", tiny), Batch(3, SECONDS, 8)
    whole, inputs = (memory.kept_for_backward(size, batch, mixed=False, checkpointing=value) for value in (False, True))
    assert inputs < 0.5 * whole


def test_shares_divide_what_is_kept_and_copies_do_not(tiny):
    size = size_of("tiny", tiny)
    copy, share = (memory.student_memory(size, shares=shares, mixed=True) for shares in (1, 8))
    for item in ("weights", "gradients", "moments"):
        assert share[item] == copy[item] / 8
    assert memory.student_memory(size, shares=8, mixed=True, whole=True)["in use"] == copy["in use"]


def test_a_large_student_in_shares_is_gathered_layer_by_layer_unless_it_writes():
    """The 3B student: 311 million weights in its embeddings, 77 million in a layer, some in front of the layers."""
    size = size_of_model("x", ModelSettings(pretrained="AutoArk-AI/ARK-ASR-3B"), None)
    assert memory.gathered(size) == pytest.approx(311e6 + 2 * 77e6, rel=0.1)
    layer_by_layer = memory.student_memory(size, shares=24, mixed=True)["in use"]
    assert layer_by_layer < 0.3 * memory.student_memory(size, shares=24, mixed=True, whole=True)["in use"]
