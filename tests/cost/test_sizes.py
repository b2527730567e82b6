import resource
from dataclasses import replace

import pytest
from transformers import LlamaConfig

from arkasr.cost.sizes import size_of, size_of_model
from arkasr.errors import InputError
from arkasr.recipe.settings import ModelSettings, TokenizerSettings
from tests.models import SMALL_STUDENT


def test_a_preset_without_memory_for_weights_has_the_size_of_the_built_model(student, teacher, vocabulary):
    tokens = TokenizerSettings(texts="x", vocab_size=len(vocabulary.token_to_id))
    sizes = {key: value for key, value in SMALL_STUDENT.items() if key != "rope_theta"}
    for recognizer, model in (
        (student, ModelSettings(preset="ark-asr-tiny", sizes=sizes)),
        (teacher, ModelSettings(preset="qwen3-asr-tiny")),
    ):
        empty, built = size_of_model("x", model, tokens), size_of(recognizer)
        assert empty.parameters == sum(parameter.numel() for parameter in recognizer.model.parameters())
        assert empty.parameters == sum(empty.parts.values())
        # The small tokenizer encodes the prompt in a different number of tokens.
        assert replace(empty, prompt_tokens=built.prompt_tokens) == built


def test_a_model_with_a_trained_encoder_has_the_size_of_the_built_model(
    student_from_whisper, whisper_folder, vocabulary
):
    tokens = TokenizerSettings(texts="x", vocab_size=len(vocabulary.token_to_id))
    sizes = {key: value for key, value in SMALL_STUDENT.items() if key not in ("rope_theta", "whisper_config")}
    model = ModelSettings(preset="ark-asr-tiny", sizes=sizes, encoder=str(whisper_folder))
    empty, built = size_of_model("x", model, tokens), size_of(student_from_whisper)
    assert replace(empty, prompt_tokens=built.prompt_tokens) == built


def test_the_encoder_of_a_published_whisper_needs_no_download():
    tokens = TokenizerSettings(texts="x", vocab_size=300)
    plain = size_of_model("x", ModelSettings(preset="ark-asr-tiny"), tokens)
    size = size_of_model("x", ModelSettings(preset="ark-asr-tiny", encoder="openai/whisper-base"), tokens)
    assert (size.encoder.layers, size.encoder.width, size.decoder) == (6, 512, plain.decoder)
    with pytest.raises(InputError, match=r"^models\.x\.encoder: someone/else is neither .*--set models\.x\.encoder=F"):
        size_of_model("x", ModelSettings(preset="ark-asr-tiny", encoder="someone/else"), tokens)


def test_a_pruned_vocabulary_counts_with_all_tokens_of_its_model(whisper_folder):
    model = ModelSettings(preset="ark-asr-tiny")
    size = size_of_model("x", model, TokenizerSettings(texts="x", pruned_from="openai/whisper-base"))
    assert 51_865 <= size.vocabulary < 51_900
    size = size_of_model("x", model, TokenizerSettings(texts="x", pruned_from=str(whisper_folder)))
    assert size.vocabulary > 330 + 1501
    limited = TokenizerSettings(texts="x", pruned_from="openai/whisper-base", vocab_size=500)
    assert 500 <= size_of_model("x", model, limited).vocabulary < 530
    with pytest.raises(InputError, match=r"^tokenizer\.pruned_from: someone/else is neither a folder nor"):
        size_of_model("x", model, TokenizerSettings(texts="x", pruned_from="someone/else"))


def test_a_model_with_a_trained_decoder_has_the_sizes_of_the_text_model(tmp_path):
    config = LlamaConfig(hidden_size=32, num_hidden_layers=5, num_attention_heads=4, intermediate_size=48)
    config.save_pretrained(tmp_path)
    size = size_of_model("x", ModelSettings(preset="ark-asr-tiny", decoder=str(tmp_path)), None)
    assert (size.decoder.layers, size.decoder.feed_forward_width, size.width) == (5, 48, 32)
    assert (size.vocabulary, size.encoder.width) == (config.vocab_size, 96)
    with pytest.raises(InputError, match="is of type 'whisper'; the decoder of a new Ark-ASR model comes from"):
        size_of_model("x", ModelSettings(preset="ark-asr-tiny", decoder="openai/whisper-base"), None)


def test_a_folder_has_the_size_of_the_saved_model(student, tmp_path):
    student.save(tmp_path)
    assert size_of_model("x", ModelSettings(pretrained=str(tmp_path)), None) == size_of(student)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # Specification ark-asr-checkpoint, section 1, without Whisper's 1500 unused positions and unused last norm.
        ("AutoArk-AI/ARK-ASR-0.6B", 1_152_556_800 - 1500 * 1280 - 2 * 1280),
        ("AutoArk-AI/ARK-ASR-3B", 3_752_273_920 - 1500 * 1280 - 2 * 1280),
    ],
)
def test_published_students_have_the_parameters_of_their_specification(name, parameters):
    size = size_of_model("x", ModelSettings(pretrained=name), None)
    assert size.parameters == pytest.approx(parameters, abs=2 * 1280)
    assert size.audio_tokens_per_second == 12.5
    assert size.frames_per_second == 50


@pytest.mark.parametrize(("name", "billions"), [("Qwen/Qwen3-ASR-1.7B-hf", 2.04), ("Qwen/Qwen3-ASR-0.6B-hf", 0.78)])
def test_published_teachers_have_the_size_in_leaderboards(name, billions):
    size = size_of_model("x", ModelSettings(pretrained=name), None)
    assert size.parameters / 1e9 == pytest.approx(billions, abs=0.01)
    assert size.audio_tokens_per_second == 13


def test_counting_a_large_model_allocates_no_weights():
    wide = ModelSettings(preset="ark-asr-0.6b", sizes={"hidden_size": 4480, "intermediate_size": 24_320})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = size_of_model("x", wide, TokenizerSettings(texts="x", vocab_size=300))
    growth = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert size.parameters > 9e9
    assert growth < size.parameters / 10


def test_a_model_of_unknown_size_is_a_one_line_error_with_a_remedy():
    with pytest.raises(
        InputError, match=r"^models\.x\.pretrained: someone/else is neither .*--set models\.x\."
    ) as error:
        size_of_model("x", ModelSettings(pretrained="someone/else"), None)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_config_is_a_one_line_error(tmp_path):
    with pytest.raises(InputError, match="; give a folder written by arkasr") as error:
        size_of_model("x", ModelSettings(pretrained=str(tmp_path)), None)
    assert "\n" not in str(error.value)
