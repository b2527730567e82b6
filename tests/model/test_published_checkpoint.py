import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, pipeline

from arkasr import ArkAsrConfig, ArkAsrForConditionalGeneration, ArkAsrProcessor
from arkasr.errors import InputError
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.load import load_recognizer
from tests import published, reference_ark_asr

PROMPT = (151_665, 151_666, 151_663, 151_667, 5501, 1356, 3114, 419, 7699, 13, 151_668)
AUDIO, STOP, FIRST_CODEC = 151_663, 151_645, 151_670


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Both sizes, scaled down: one file without `lm_head`, and three shards with it."""
    root = tmp_path_factory.mktemp("published")
    layouts = {"0.6b": {"lm_head": False, "shards": 1}, "3b": {"lm_head": True, "shards": 3}}
    found = {}
    for size, layout in layouts.items():
        weights = published.write_checkpoint(root / size, published.SCALED[size], **layout)
        found[size] = root / size, weights
    return found


@pytest.fixture(params=["0.6b", "3b"])
def checkpoint(request, checkpoints):
    folder, weights = checkpoints[request.param]
    return folder, weights, published.SCALED[request.param]


@pytest.fixture
def waveform():
    return (np.random.default_rng(0).normal(size=37_531) * 0.1).astype(np.float32)


def conversation(audio):
    return [{"role": "user", "content": [audio, {"type": "text", "text": "Please transcribe this audio."}]}]


def relative_difference(found, expected):
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("size", ["0.6b", "3b"])
def test_full_size_keys_and_shapes_equal_the_published_ones(size):
    fields = published.config(published.SIZES[size])
    with torch.device("meta"):
        model = ArkAsrForConditionalGeneration(ArkAsrConfig(**fields))
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = published.shapes(published.SIZES[size])
    del expected["audio_encoder.whisper.embed_positions.weight"]
    assert found == expected
    unique = sum(parameter.numel() for parameter in model.parameters()) + 1500 * 1280
    assert unique == {"0.6b": 1_152_556_800, "3b": 3_752_273_920}[size]


def test_embeddings_and_logits_equal_the_reference(checkpoint, waveform):
    folder, weights, sizes = checkpoint
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert type(model) is ArkAsrForConditionalGeneration
    assert not info["missing_keys"]
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor.apply_chat_template(
        conversation({"type": "audio", "array": waveform}), add_generation_prompt=True
    )
    ids = torch.cat((inputs["input_ids"][0], torch.tensor([4321, 99, STOP])))
    heads = sizes["whisper_config"]["encoder_attention_heads"]
    with torch.no_grad():
        embeddings, _ = model.get_audio_features(inputs["audios"])
        logits = model(input_ids=ids[None], audios=inputs["audios"]).logits[0]
    audio = reference_ark_asr.audio_embeddings(weights, inputs["audios"][0], heads)
    assert relative_difference(embeddings, audio) < 1e-5
    plain = reference_ark_asr.logits(
        weights, ids, audio, sizes["num_attention_heads"], sizes["num_key_value_heads"], AUDIO
    )
    assert relative_difference(logits, plain) < 1e-5
    assert torch.equal(logits.argmax(-1), plain.argmax(-1))


def test_the_model_card_s_conversation_gives_the_published_ids(checkpoint, waveform, tmp_path):
    """The call of the published scripts, argument for argument (they leave out `tokenize` and `return_dict`)."""
    import soundfile

    folder, _, _ = checkpoint
    path = tmp_path / "speech.wav"
    soundfile.write(path, waveform, 16_000, subtype="FLOAT")
    processor = AutoProcessor.from_pretrained(folder, fix_mistral_regex=True)
    assert isinstance(processor, ArkAsrProcessor)
    inputs = processor.apply_chat_template(
        [
            conversation({"type": "audio", "path": str(path), "begin_time": -1, "end_time": -1}),
            conversation({"type": "audio", "path": str(path), "begin_time": 0.5, "end_time": 1.25}),
        ],
        return_tensors="pt",
        sampling_rate=16_000,
        audio_padding="longest",
        add_generation_prompt=True,
        text_kwargs={"padding": "longest"},
        audio_max_length=30 * 16_000,
    )
    assert inputs["audios"].dtype == torch.float32
    assert inputs["audios"].shape == (2, 128, 234)
    counts = [((37_531 // 160 + 1) // 2) // 4, ((12_000 // 160 + 1) // 2) // 4]
    assert inputs["input_ids"][0].tolist() == [*PROMPT[:2], *[AUDIO] * counts[0], *PROMPT[3:]]
    padding = counts[0] - counts[1]
    assert inputs["input_ids"][1].tolist() == [151_643] * padding + [*PROMPT[:2], *[AUDIO] * counts[1], *PROMPT[3:]]
    assert inputs["attention_mask"][1].tolist() == [0] * padding + [1] * (counts[1] + 10)
    apart = processor.log_mel(waveform[8_000:20_000])
    assert torch.equal(inputs["audios"][1, :, :75], apart)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling_rate": 8_000}, "sampling_rate is 8000; Ark-ASR takes 16000 Hz"),
        ({"audio_padding": "max_length"}, "only 'longest' gives the published results"),
    ],
)
def test_arguments_that_would_change_results_are_refused(checkpoints, waveform, arguments, message):
    processor = AutoProcessor.from_pretrained(checkpoints["0.6b"][0])
    with pytest.raises(ValueError, match=message):
        processor.apply_chat_template(conversation({"type": "audio", "array": waveform}), **arguments)


@pytest.mark.parametrize("parts", [[], [{"type": "audio", "array": [0.0] * 800}] * 2])
def test_a_conversation_holds_one_audio(checkpoints, parts):
    processor = AutoProcessor.from_pretrained(checkpoints["0.6b"][0])
    with pytest.raises(ValueError, match=f"holds {len(parts)} audio parts; Ark-ASR takes exactly one"):
        processor.apply_chat_template([{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}])


def test_suppressed_tokens_come_from_the_tokenizer(checkpoint):
    folder, _, sizes = checkpoint
    model = AutoModelForCausalLM.from_pretrained(folder)
    suppressed = set(model.generation_config.suppress_tokens)
    assert suppressed == set(range(151_643, sizes["vocab_size"])) - {STOP}
    assert model.generation_config.eos_token_id == STOP
    assert AutoTokenizer.from_pretrained(folder).vocab_size <= 151_643 < len(AutoTokenizer.from_pretrained(folder))


def test_plain_generate_writes_no_control_token_and_stops(checkpoints, waveform):
    """The likeliest tokens are `<|user|>`, `<tool_call>`, the placeholder and a codec token, then the stop."""
    folder, _ = checkpoints["0.6b"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor.apply_chat_template(
        [conversation({"type": "audio", "array": waveform})], add_generation_prompt=True
    )

    def raise_scores(head, arguments, scores):
        scores[..., raised] += torch.tensor([900.0, 800.0, 700.0, 600.0, 500.0, 100.0])

    model.lm_head.register_forward_hook(raise_scores)
    raised = [151_665, 151_657, AUDIO, FIRST_CODEC + 5, 163_957, 4321]
    written = model.generate(**inputs, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
    assert written.tolist() == [4321] * 5
    raised[-1] = STOP
    written = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert written.tolist() == [STOP]


def test_the_pipeline_equals_the_recogniser(checkpoints, waveform):
    """The clip ends in silence, because only then Whisper's padded features equal those of the clip alone."""
    folder, _ = checkpoints["0.6b"]
    waveform[-1200:] = 0.0
    transcribe = pipeline("automatic-speech-recognition", model=str(folder))
    found = transcribe(waveform, max_new_tokens=12)["text"]
    recognizer = load_recognizer(folder)
    prompts = recognizer.prompts([recognizer.features(waveform)], [None])
    tokens = decode(recognizer, prompts, max_new_tokens=12).tokens[0]
    assert found == recognizer.transcript_text(tokens)
    assert len(set(tokens.tolist())) > 1


def test_unused_norms_and_positions_have_no_effect(checkpoints, waveform, tmp_path):
    folder, _ = checkpoints["0.6b"]
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    stored = load_file(folder / "model.safetensors")
    stored["audio_encoder.whisper.embed_positions.weight"] *= 1000
    stored |= {f"audio_encoder.whisper.layer_norm.{part}": torch.full((80,), 7.0) for part in ("weight", "bias")}
    save_file(stored, changed / "model.safetensors", metadata={"format": "pt"})
    features = AutoProcessor.from_pretrained(folder).log_mel(waveform)[None]
    found = [AutoModelForCausalLM.from_pretrained(place).get_audio_features(features)[0] for place in (folder, changed)]
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_are_cast_to_the_models_dtype(checkpoint, waveform, dtype):
    folder, weights, sizes = checkpoint
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    inputs = AutoProcessor.from_pretrained(folder).apply_chat_template(
        conversation({"type": "audio", "array": waveform}), add_generation_prompt=True
    )
    with torch.no_grad():
        embeddings, _ = model.get_audio_features(inputs["audios"])
        logits = model(**inputs).logits
    assert embeddings.dtype == logits.dtype == dtype
    audio = reference_ark_asr.audio_embeddings(
        weights, inputs["audios"][0], sizes["whisper_config"]["encoder_attention_heads"]
    )
    assert relative_difference(embeddings, audio) < {torch.bfloat16: 0.05, torch.float16: 0.006}[dtype]


@pytest.mark.parametrize("lm_head", [True, False])
@pytest.mark.parametrize("shards", [1, 4])
def test_one_file_or_shards_with_or_without_a_head(tmp_path, lm_head, shards):
    sizes = published.SCALED["0.6b"] | {"num_hidden_layers": 1, "hidden_size": 56}
    weights = published.write_checkpoint(tmp_path, sizes, lm_head=lm_head, shards=shards)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model.model.embed_tokens.weight, weights["model.embed_tokens.weight"])
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


@pytest.fixture
def damaged(checkpoints, tmp_path):
    """A copy of a checkpoint in which weights can be changed."""
    folder, _ = checkpoints["0.6b"]
    shutil.copytree(folder, tmp_path / "damaged")
    path = tmp_path / "damaged" / "model.safetensors"

    def change(edit):
        stored = load_file(path)
        edit(stored)
        save_file(stored, path, metadata={"format": "pt"})
        return tmp_path / "damaged"

    return change


def test_a_missing_weight_is_named(damaged):
    def edit(stored):
        del stored["audio_encoder.adapting.2.weight"]
        del stored["model.norm.weight"]

    with pytest.raises(InputError, match=r"has no weight audio_encoder\.adapting\.2\.weight \(and 1 more\)"):
        load_recognizer(damaged(edit))


def test_a_misshaped_weight_is_named(damaged):
    def edit(stored):
        name = "audio_encoder.whisper.layers.1.fc1.weight"
        stored[name] = stored[name][:-1].clone()

    expected = (
        r"weight audio_encoder\.whisper\.layers\.1\.fc1\.weight is \[159, 80\] in the file, .* asks for \[160, 80\]"
    )
    with pytest.raises(InputError, match=expected):
        AutoModelForCausalLM.from_pretrained(damaged(edit))


def test_a_truncated_file_is_named(checkpoints, tmp_path):
    folder, _ = checkpoints["3b"]
    shutil.copytree(folder, tmp_path / "cut")
    shard = tmp_path / "cut" / "model-00002-of-00003.safetensors"
    with shard.open("rb+") as file:
        file.truncate(shard.stat().st_size // 2)
    with pytest.raises(InputError, match=r"model-00002-of-00003\.safetensors") as caught:
        load_recognizer(tmp_path / "cut")
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_not_there_is_named(checkpoints, tmp_path):
    folder, _ = checkpoints["3b"]
    shutil.copytree(folder, tmp_path / "cut")
    (tmp_path / "cut" / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00003-of-00003\.safetensors"):
        load_recognizer(tmp_path / "cut")


def test_the_published_config_loads_unchanged(checkpoint):
    folder, _, sizes = checkpoint
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is ArkAsrConfig
    assert config.rope_parameters["rope_theta"] == 1e6
    assert config.vocab_size == sizes["vocab_size"]
    assert config.whisper_config.d_model == 80
    assert json.loads((folder / "config.json").read_text())["auto_map"]
