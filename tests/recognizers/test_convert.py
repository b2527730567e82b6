import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoProcessor

from arkasr.errors import InputError
from arkasr.recognizers.convert import convert
from tests import published


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("convert") / "published"
    sizes = published.SCALED["3b"] | {"num_hidden_layers": 1, "hidden_size": 64}
    return folder, published.write_checkpoint(folder, sizes, lm_head=False), sizes


def stored(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def test_published_to_transformers_and_back(checkpoint, tmp_path):
    folder, weights, sizes = checkpoint
    assert convert(str(folder), tmp_path / "plain", None, "auto", "5GB") == "transformers"
    plain = json.loads((tmp_path / "plain" / "config.json").read_text())
    assert plain["architectures"] == ["ArkAsrForConditionalGeneration"]
    assert "auto_map" not in plain
    assert convert(str(tmp_path / "plain"), tmp_path / "back", None, "auto", "5MB") == "published"
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    expected = published.config(sizes)
    assert {name: back[name] for name in expected.keys() - {"whisper_config", "transformers_version"}} == {
        name: value for name, value in expected.items() if name not in ("whisper_config", "transformers_version")
    }
    assert expected["whisper_config"].items() <= back["whisper_config"].items()
    found = stored(tmp_path / "back")
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == published.shapes(sizes)
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 1
    for name, tensor in weights.items():
        assert name.endswith("embed_positions.weight") or torch.equal(found[name], tensor), name
    keys = json.loads((tmp_path / "back" / "processor_config.json").read_text()).keys()
    assert {"merge_factor", "audio_token", "audio_dtype", "feature_extractor_config", "tokenizer_config"} <= keys


def test_a_converted_model_has_its_suppressed_tokens_in_its_generation_config(checkpoint, tmp_path):
    convert(str(checkpoint[0]), tmp_path / "plain", "transformers", "bfloat16", "5GB")
    generation = json.loads((tmp_path / "plain" / "generation_config.json").read_text())
    assert len(generation["suppress_tokens"]) == 151_936 - 151_643 - 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert AutoProcessor.from_pretrained(tmp_path / "plain").feature_extractor.feature_size == 128


def test_an_untied_head_is_kept(student, tmp_path):
    student.model.config.tie_word_embeddings = False
    student.model.lm_head.weight = torch.nn.Parameter(student.model.lm_head.weight.detach() * 2)
    student.save(tmp_path / "untied")
    convert(str(tmp_path / "untied"), tmp_path / "published", "published", "auto", "5GB")
    assert torch.equal(stored(tmp_path / "published")["lm_head.weight"], student.model.lm_head.weight)
    with pytest.raises(InputError, match="--max-shard-size 5 potatoes"):
        convert(str(tmp_path / "untied"), tmp_path / "new", "transformers", "auto", "5 potatoes")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "untied"]


def test_an_existing_folder_or_an_unknown_argument_is_refused(checkpoint, tmp_path, teacher):
    folder, _, _ = checkpoint
    with pytest.raises(InputError, match="exists already; name a folder that does not"):
        convert(str(folder), tmp_path, None, "auto", "5GB")
    with pytest.raises(InputError, match="did you mean 'published'"):
        convert(str(folder), tmp_path / "new", "publish", "auto", "5GB")
    with pytest.raises(InputError, match="dtype float61: did you mean 'float16'"):
        convert(str(folder), tmp_path / "new", None, "float61", "5GB")
    teacher.save(tmp_path / "teacher")
    with pytest.raises(InputError, match="is of type 'qwen3_asr'; only Ark-ASR has two layouts"):
        convert(str(tmp_path / "teacher"), tmp_path / "new", None, "auto", "5GB")
    assert {path.name for path in tmp_path.iterdir()} == {"teacher"}
