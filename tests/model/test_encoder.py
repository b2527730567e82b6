import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from arkasr.errors import InputError
from arkasr.model.frames import HOP_LENGTH, WINDOW_LENGTH, audio_tokens
from tests import reference_ark_asr


@pytest.mark.parametrize("frames", [2, 7, 8, 9, 50, 123])
def test_audio_embeddings_equal_the_reference(student, frames):
    mel = torch.randn(40, frames, generator=torch.Generator().manual_seed(frames))
    embeddings, counts = student.model.get_audio_features(mel[None])
    expected = reference_ark_asr.audio_embeddings(student.model.state_dict(), mel, heads=2)
    assert counts.tolist() == [len(expected)] == [audio_tokens(frames)]
    assert (embeddings - expected).norm() < 1e-5 * expected.norm()


def test_logits_equal_stock_qwen2_given_the_audio_embeddings(student):
    config = student.model.config
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    sizes = {name: getattr(config, name) for name in (*names, "intermediate_size", "rms_norm_eps")}
    stock = Qwen2ForCausalLM(Qwen2Config(**sizes, tie_word_embeddings=True, rope_parameters=config.rope_parameters))
    weights = {
        name: value for name, value in student.model.state_dict().items() if not name.startswith("audio_encoder")
    }
    stock.load_state_dict(weights)
    mel = torch.randn(40, 90)
    ids = torch.tensor([student.prompt_ids(90, None)])
    with torch.no_grad():
        ours = student.model(input_ids=ids, audios=mel[None]).logits
        embeddings = stock.model.embed_tokens(ids)
        embeddings[ids == config.audio_token_id] = student.model.get_audio_features(mel[None])[0]
        theirs = stock(inputs_embeds=embeddings).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "tokens"),
    [
        (400 * 160, 50),
        (3000 * 160, 375),
        (160, 1),
        (1, 1),
        (16_001, 12),
        (9 * 160, 1),
        (15 * 160, 2),
    ],
)
def test_the_number_of_audio_tokens(samples, tokens):
    assert audio_tokens(samples // HOP_LENGTH) == tokens


@pytest.mark.parametrize("samples", [1, 100, 199, 200, 201, 399, 400, 401, 1_000, 16_001, 16_160, 33_333])
def test_prompts_have_one_placeholder_for_each_audio_embedding(student, teacher, samples):
    waveform = np.random.default_rng(0).normal(size=samples).astype(np.float32)
    for recognizer in (student, teacher):
        features = recognizer.features(waveform)
        embeddings, counts = recognizer.audio_embeddings(recognizer.pad_features([features]))
        assert len(embeddings) == counts.item() == recognizer.audio_token_count(features.shape[1])
    frames = student.features(waveform).shape[1]
    assert student.audio_token_count(frames) == audio_tokens(max(samples, WINDOW_LENGTH) // HOP_LENGTH)


def test_thirty_seconds_are_accepted_and_more_is_refused(student, teacher):
    for recognizer in (student, teacher):
        assert recognizer.features(np.zeros(30 * 16_000 + 159, dtype=np.float32)).shape[1] == 3_000
        with pytest.raises(InputError, match=r"the audio is 30\.5 s long, the models take at most 30 s; cut it"):
            recognizer.features(np.zeros(int(30.5 * 16_000), dtype=np.float32))


def test_values_in_the_padding_have_no_effect(student):
    short, long = torch.randn(40, 33), torch.randn(40, 80)
    audio = student.pad_features([short, long])
    clean, _ = student.audio_embeddings(audio)
    audio["audios"][0, :, 33:] = 1e3
    dirty, _ = student.audio_embeddings(audio)
    torch.testing.assert_close(dirty, clean, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_even_with_huge_activations(student, dtype):
    model = student.model.to(dtype)
    with torch.no_grad():
        model.audio_encoder.whisper.layers[0].fc2.weight.mul_(1e5)
        embeddings, _ = model.get_audio_features(torch.randn(1, 40, 60))
    assert embeddings.dtype == dtype
    assert embeddings.isfinite().all()


def test_a_prompt_with_too_few_placeholders_is_refused(student):
    ids = torch.tensor([student.prompt_ids(90, None)])
    with pytest.raises(ValueError, match="audio tokens"):
        student.model(input_ids=ids, audios=torch.randn(1, 40, 200))


def test_qwen3_asr_windows_computed_on_the_host_equal_those_of_its_encoder(teacher):
    """Windows of 8 seconds: clips of several windows, of exactly two, and of less than a chunk."""
    generator = torch.Generator().manual_seed(0)
    for frames in ([2030, 1600, 90, 801], [40, 90]):
        audio = teacher.pad_features([torch.randn(80, count, generator=generator) for count in frames])
        lengths = [teacher.audio_token_count(count) for count in frames]
        expected, counts = teacher.audio_embeddings(audio)
        assert counts.tolist() == lengths
        padded = teacher.padded_audio_embeddings(audio, lengths)
        found = torch.cat([row[:length] for row, length in zip(padded, lengths, strict=True)])
        assert torch.equal(found, expected)
