"""Models of a recipe before the first stage: trained parts and random ones."""

import pytest
import torch

from arkasr.errors import InputError
from arkasr.recipe.settings import ModelSettings
from arkasr.recognizers.convert import convert_window
from arkasr.run.starting_points import new_model


def start(vocabulary, seed=0, **keys):
    return new_model("student", ModelSettings(preset="ark-asr-tiny", **keys), vocabulary, seed, torch.device("cpu"))


def test_the_sizes_of_a_trained_encoder_replace_those_of_the_preset(vocabulary, whisper_folder):
    config = start(vocabulary, encoder=str(whisper_folder), sizes={"whisper_config": {"d_model": 48}}).model.config
    assert (config.whisper_config.d_model, config.whisper_config.encoder_layers, config.use_rope) == (48, 2, False)
    assert config.hidden_size == 96


def test_the_seed_determines_the_parts_that_are_not_trained(vocabulary, whisper_folder):
    first, again, other = (start(vocabulary, seed, encoder=str(whisper_folder)) for seed in (0, 0, 1))
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)
    assert torch.equal(other.model.audio_encoder.whisper.conv1.weight, first.model.audio_encoder.whisper.conv1.weight)
    assert not torch.equal(other.model.audio_encoder.adapting[0].weight, first.model.audio_encoder.adapting[0].weight)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"whisper_config": {"d_model": 96}}, "sizes.whisper_config.d_model: is 96, but FOLDER has 48; remove the key"),
        ({"use_rope": True}, "sizes.use_rope: is True, but FOLDER has False; remove the key"),
    ],
)
def test_sizes_that_contradict_the_encoder_are_refused(vocabulary, whisper_folder, sizes, message):
    with pytest.raises(InputError) as refused:
        start(vocabulary, encoder=str(whisper_folder), sizes=sizes)
    assert str(refused.value) == "models.student." + message.replace("FOLDER", str(whisper_folder))


def test_only_the_encoder_of_a_whisper_model_is_taken(vocabulary, teacher, whisper, whisper_folder, tmp_path):
    teacher.save(tmp_path / "teacher")
    with pytest.raises(InputError, match="teacher: is of type 'qwen3_asr'; the encoder of a new Ark-ASR model comes"):
        start(vocabulary, encoder=str(tmp_path / "teacher"))
    whisper.model.config.activation_function = "relu"
    whisper.save(tmp_path / "relu")
    with pytest.raises(InputError, match="relu: its encoder's activation is 'relu', that of Ark-ASR is 'gelu'"):
        start(vocabulary, encoder=str(tmp_path / "relu"))
    convert_window(str(whisper_folder), tmp_path / "short", 15, "auto", "5GB")
    with pytest.raises(InputError, match="short: its window is 15 s, Ark-ASR takes clips of up to 30 s and pads none"):
        start(vocabulary, encoder=str(tmp_path / "short"))
    with pytest.raises(InputError, match="absent"):
        start(vocabulary, encoder=str(tmp_path / "absent"))
