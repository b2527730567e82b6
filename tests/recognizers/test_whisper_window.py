"""A Whisper model converted to a shorter window: the same weights, in arkasr and in Transformers."""

import json

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from arkasr.errors import InputError
from arkasr.recognizers.convert import convert_window
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.load import load_recognizer, load_without_weights

WINDOW = 2
POSITIONS = "model.encoder.embed_positions.weight"


@pytest.fixture(scope="module")
def folder(whisper_folder, tmp_path_factory):
    """The model of `whisper_folder` with a window of two seconds."""
    folder = tmp_path_factory.mktemp("window") / "short"
    convert_window(str(whisper_folder), folder, WINDOW, "auto", "5GB")
    return folder


@pytest.fixture
def clips():
    generator = np.random.default_rng(0)
    return [generator.normal(size=samples).astype(np.float32) * 0.1 for samples in (700, 16_000, 31_999, 32_000)]


def write_recordings(folder, seconds):
    """A manifest of noise, with one recording for each length."""
    generator, rows = np.random.default_rng(0), []
    for length in seconds:
        soundfile.write(folder / f"{length}.wav", generator.normal(size=int(length * 16_000)) * 0.1, 16_000)
        rows.append({"audio": f"{length}.wav", "text": "the red book", "language": "en", "id": str(length)})
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "test.jsonl"


def rows_of(path):
    return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


def test_transformers_writes_the_same_tokens(folder, clips):
    recognizer = load_recognizer(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    processor = WhisperProcessor.from_pretrained(folder)
    prompts = recognizer.prompts([recognizer.features(clip) for clip in clips], ["English"] * len(clips))
    written = decode(recognizer, prompts, max_new_tokens=6).tokens
    for clip, tokens in zip(clips, written, strict=True):
        inputs = processor(clip, sampling_rate=16_000, return_tensors="pt").input_features
        assert inputs.shape == (1, 40, 100 * WINDOW)
        generated = model.generate(inputs, language="en", task="transcribe", max_new_tokens=6)[0].tolist()
        assert generated[: len(tokens)] == tokens.tolist()
    assert len({tuple(tokens.tolist()) for tokens in written}) > 1


def test_the_encoder_reads_the_window_as_transformers_does(folder, clips):
    recognizer = load_recognizer(folder)
    prompts = recognizer.prompts([recognizer.features(clip) for clip in clips], ["English"] * len(clips))
    states = recognizer.embed_audio(prompts).audio["embeddings"]
    processor = WhisperProcessor.from_pretrained(folder)
    inputs = processor(clips, sampling_rate=16_000, return_tensors="pt").input_features
    with torch.no_grad():
        expected = WhisperForConditionalGeneration.from_pretrained(folder).model.encoder(inputs).last_hidden_state
    assert states.shape[1] == 50 * WINDOW
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seconds", [WINDOW, 30])
def test_every_weight_stays_and_the_first_positions(whisper_folder, seconds, tmp_path):
    convert_window(str(whisper_folder), tmp_path / "new", seconds, "auto", "5GB")
    before = load_file(whisper_folder / "model.safetensors")
    after = load_file(tmp_path / "new" / "model.safetensors")
    assert before.keys() == after.keys()
    before[POSITIONS] = before[POSITIONS][: 50 * seconds]
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name


def test_other_files_say_what_they_said(whisper_folder, folder, tmp_path):
    assert (folder / "generation_config.json").read_text() == (whisper_folder / "generation_config.json").read_text()
    # Transformers completes the tokenizer of a new model when it loads it.
    load_recognizer(whisper_folder).save(tmp_path)
    assert (folder / "tokenizer.json").read_text() == (tmp_path / "tokenizer.json").read_text()
    changed = {}
    for name in ("config.json", "processor_config.json"):
        before, after = (json.loads((place / name).read_text()) for place in (whisper_folder, folder))
        before, after = (content.get("feature_extractor", content) for content in (before, after))
        assert before.keys() == after.keys()
        changed |= {key: value for key, value in after.items() if value != before[key]}
    assert changed == {
        "max_source_positions": 50 * WINDOW,
        "chunk_length": WINDOW,
        "n_samples": 16_000 * WINDOW,
        "nb_max_frames": 100 * WINDOW,
    }


def test_dtype_and_size_of_files_are_chosen(whisper_folder, tmp_path):
    convert_window(str(whisper_folder), tmp_path / "new", WINDOW, "bfloat16", "100KB")
    files = list((tmp_path / "new").glob("*.safetensors"))
    assert len(files) > 1
    assert {tensor.dtype for file in files for tensor in load_file(file).values()} == {torch.bfloat16}
    assert load_recognizer(tmp_path / "new").window_seconds == WINDOW


@pytest.mark.parametrize("seconds", [0.01, 1, 1.98, 1.9999, 2])
@pytest.mark.parametrize("level", [0.0, 0.3])
def test_padded_features_equal_those_of_transformers(folder, seconds, level):
    recognizer = load_without_weights(folder)
    clip = np.random.default_rng(0).normal(size=int(seconds * 16_000)).astype(np.float32) * level
    expected = recognizer.processor.feature_extractor(clip, sampling_rate=16_000, return_tensors="pt")
    padded = recognizer.pad_features([recognizer.features(clip)])
    torch.testing.assert_close(padded["input_features"], expected["input_features"], rtol=0, atol=1e-6)


def test_a_clip_longer_than_the_window_is_refused(folder):
    recognizer = load_without_weights(folder)
    assert recognizer.features(np.zeros(32_159, dtype=np.float32)).shape[1] == 200
    with pytest.raises(InputError) as refused:
        recognizer.features(np.zeros(35_200, dtype=np.float32))
    assert str(refused.value) == (
        "the audio is 2.2 s long, the models take at most 2 s; cut it into pieces with `begin_time` and `end_time`, or "
        "use a model with a longer window"
    )


def test_a_window_that_cannot_be_is_refused_in_one_line(whisper_folder, folder, student, tmp_path, command):
    student.save(tmp_path / "ark")
    for arguments, message in (
        ((whisper_folder, tmp_path / "new", "--window-seconds", 12.5), "--window-seconds 12.5: give whole seconds fr"),
        ((whisper_folder, tmp_path / "new", "--window-seconds", 0), "--window-seconds 0: give whole seconds from 1 to"),
        ((whisper_folder, tmp_path / "new", "--window-seconds", 31), "--window-seconds 31: give whole seconds from 1"),
        ((whisper_folder, tmp_path / "new", "--window-seconds", "nan"), "--window-seconds nan: give whole seconds"),
        (
            (folder, tmp_path / "new", "--window-seconds", 3),
            f"model {folder} has a window of 2 s, which can only",
        ),
        (
            (tmp_path / "ark", tmp_path / "new", "--window-seconds", 3),
            "is of type 'arkasr'; --window-seconds needs",
        ),
        ((whisper_folder, tmp_path / "ark", "--window-seconds", 3), "exists already; name a folder that does not"),
        ((folder, tmp_path / "new", "--window-seconds", 2, "--layout", "published"), "--layout and --window-seconds"),
        ((folder, tmp_path / "new", "--window-seconds", 2, "--max-shard-size", "5 potatoes"), "--max-shard-size 5 p"),
        ((whisper_folder, tmp_path / "new"), "only Ark-ASR has two layouts"),
    ):
        status, _, lines = command("convert", *arguments)
        assert (status, len(lines)) == (2, 1)
        assert message in lines[0]
        assert not (tmp_path / "new").exists()


def test_an_utterance_longer_than_the_window_fails_alone(folder, tmp_path, command):
    manifest, output, labels = write_recordings(tmp_path, (1.0, 3.0, 1.5)), tmp_path / "out.jsonl", tmp_path / "labels"
    evaluation = ("evaluate", manifest, "--model", folder, "-o", output)
    labelling = ("label", manifest, "--teacher", folder, "-o", labels)
    for arguments in (evaluation, labelling):
        assert command(*arguments, "--max-new-tokens", 6)[0] == 0
    for failed in (rows_of(output), rows_of(labels.with_suffix(".dropped.jsonl"))):
        errors = {name: row["error"] for name, row in failed.items() if "error" in row}
        assert errors.keys() == {"3.0"}
        assert errors["3.0"].startswith(f"{tmp_path / '3.0.wav'}: the audio is 3.0 s long, the models take at most 2 s")


def test_training_refuses_longer_utterances_and_then_writes_a_model_with_the_window(folder, tmp_path, command):
    manifest = write_recordings(tmp_path, (1.0, 3.0, 1.5))
    recipe = {
        "name": "window",
        "evaluation": {"max_new_tokens": 8},
        "sets": {"L": {"manifest": str(manifest)}},
        "models": {"short": {"pretrained": str(folder)}},
        "stages": {
            "sft": {
                "kind": "sft",
                "start": "short",
                "train": "L",
                "optimization": {"steps": 1, "batch_seconds": 4, "learning_rate": 1e-3},
                "augmentation": {"join_share": 1.0, "time_stretch": 0.4},
            }
        },
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    training = ("train", "sft", tmp_path / "recipe.yaml", "--output")
    status, _, lines = command(*training, tmp_path / "refused")
    assert (status, len(lines)) == (2, 1)
    assert "set L: 1 of 3 utterances are longer than 2.01 s, the most that the model or a batch holds; the" in lines[0]
    assert lines[0].endswith("is 3.0; leave them out with the set's `max_seconds`")
    assert command(*training, tmp_path / "run", "--set", f"sets.L.max_seconds={WINDOW}")[0] == 0
    trained = load_recognizer(tmp_path / "run" / "stages" / "sft" / "model")
    assert trained.longest_clip_seconds == trained.window_seconds == WINDOW
