"""An encoder with `use_rope: false` is Whisper's, for clips of any length."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoProcessor, WhisperForConditionalGeneration

from arkasr.errors import InputError
from arkasr.model.layout import LAYOUTS
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.load import load_recognizer
from arkasr.train.stages.ctc import CtcStage
from tests.models import noise_examples

POSITIONS = "audio_encoder.whisper.embed_positions.weight"


@pytest.fixture
def clips():
    generator = np.random.default_rng(0)
    return [generator.normal(size=samples).astype(np.float32) * 0.1 for samples in (700, 20_000, 33_333, 16_000)]


def audio_embeddings(recognizer, clips):
    """The valid audio embeddings of each clip, computed in one batch."""
    valid, counts = recognizer.audio_embeddings(recognizer.pad_features([recognizer.features(clip) for clip in clips]))
    return valid.split(counts.tolist())


def test_the_states_of_a_clip_of_30_s_equal_those_of_transformers_encoder(student_from_whisper, whisper_folder):
    clip = np.random.default_rng(0).normal(size=480_000).astype(np.float32) * 0.1
    encoder = student_from_whisper.model.audio_encoder
    whisper = load_recognizer(whisper_folder)
    features = whisper.pad_features([whisper.features(clip)])["input_features"]
    assert torch.equal(student_from_whisper.features(clip), features[0])
    with torch.no_grad():
        expected = WhisperForConditionalGeneration.from_pretrained(whisper_folder).model.encoder(features)
        frames, _ = encoder.whisper(features, torch.ones(1, 3000, dtype=torch.bool))
        torch.testing.assert_close(encoder.layer_norm(frames), expected.last_hidden_state, rtol=1e-5, atol=1e-5)


def test_a_clip_does_not_depend_on_its_batch(student_from_whisper, clips):
    batched = audio_embeddings(student_from_whisper, clips)
    for clip, expected in zip(clips, batched, strict=True):
        torch.testing.assert_close(audio_embeddings(student_from_whisper, [clip])[0], expected, rtol=1e-5, atol=1e-5)
    audio = student_from_whisper.pad_features([student_from_whisper.features(clip) for clip in clips[:2]])
    clean, _ = student_from_whisper.audio_embeddings(audio)
    audio["audios"][0, :, student_from_whisper.features(clips[0]).shape[1] :] = 1e3
    dirty, _ = student_from_whisper.audio_embeddings(audio)
    assert torch.equal(dirty, clean)


def test_audio_without_positions_is_refused(student_from_whisper):
    assert student_from_whisper.model.get_audio_features(torch.randn(1, 40, 3000))[1].tolist() == [375]
    with pytest.raises(ValueError, match="the audio has 1501 encoder frames, the encoder has 1500 positions"):
        student_from_whisper.model.get_audio_features(torch.randn(1, 40, 3001))


@pytest.mark.parametrize("layout", ["transformers", "published"])
def test_both_layouts_keep_positions_and_transcripts(student_from_whisper, clips, layout, tmp_path):
    LAYOUTS[layout](student_from_whisper.model, student_from_whisper.processor, tmp_path, "5GB")
    assert json.loads((tmp_path / "config.json").read_text())["use_rope"] is False
    loaded = load_recognizer(tmp_path)
    for name, tensor in student_from_whisper.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    decoded = []
    for recognizer in (student_from_whisper, loaded):
        prompts = recognizer.prompts([recognizer.features(clip) for clip in clips], [None] * len(clips))
        decoded.append([tokens.tolist() for tokens in decode(recognizer, prompts, max_new_tokens=6).tokens])
    assert decoded[0] == decoded[1]
    with torch.no_grad():
        inputs = AutoProcessor.from_pretrained(tmp_path).pad_features([loaded.features(clips[1])])
        embeddings, _ = AutoModelForCausalLM.from_pretrained(tmp_path).get_audio_features(**inputs)
    torch.testing.assert_close(embeddings, audio_embeddings(student_from_whisper, clips[1:2])[0])


def test_a_folder_without_the_positions_is_refused(student_from_whisper, tmp_path):
    student_from_whisper.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[POSITIONS]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"has no weight {POSITIONS}"):
        load_recognizer(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(student_from_whisper, clips, dtype, tmp_path):
    student_from_whisper.save(tmp_path)
    exact = audio_embeddings(student_from_whisper, clips[1:2])[0]
    loaded = load_recognizer(tmp_path, dtype=dtype)
    rounded = audio_embeddings(loaded, clips[1:2])[0]
    assert loaded.model.state_dict()[POSITIONS].dtype == rounded.dtype == dtype
    assert torch.nn.functional.cosine_similarity(rounded.float().flatten(), exact.flatten(), dim=0) > 0.999


def test_training_changes_the_encoder_and_not_its_positions(student_from_whisper):
    stage = CtcStage(student_from_whisper, None)
    before = {name: tensor.clone() for name, tensor in student_from_whisper.model.audio_encoder.state_dict().items()}
    optimizer = torch.optim.AdamW([item for item in stage.parameters() if item.requires_grad], 1e-2, weight_decay=0.1)
    stage.loss(noise_examples(student_from_whisper, seconds=(1.5, 2.0), texts=["two", "red"]), 0).total.backward()
    optimizer.step()
    after = student_from_whisper.model.audio_encoder.state_dict()
    unchanged = [name for name, tensor in before.items() if torch.equal(tensor, after[name])]
    assert unchanged == [POSITIONS.removeprefix("audio_encoder.")]
