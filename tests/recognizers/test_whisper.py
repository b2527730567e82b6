"""Whisper's prompt, window, suppressed tokens, leading blank and languages."""

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from arkasr.errors import InputError
from arkasr.recognizers.decoding import Sampling, decode
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.scoring import forced_logits
from arkasr.recognizers.whisper import Whisper


@pytest.fixture
def clips():
    generator = np.random.default_rng(0)
    return [generator.normal(size=samples).astype(np.float32) * 0.1 for samples in (700, 16_000, 31_999, 480_000)]


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.003, 29.98, 29.9999, 30])
@pytest.mark.parametrize("level", [0.0, 1e-4, 0.3])
def test_padded_features_equal_those_of_the_published_extractor(whisper, seconds, level):
    clip = np.random.default_rng(0).normal(size=int(seconds * 16_000)).astype(np.float32) * level
    expected = whisper.processor.feature_extractor(clip, sampling_rate=16_000, return_tensors="pt")["input_features"]
    features = whisper.features(clip)
    assert features.shape[1] <= len(clip) // 160 + 5
    torch.testing.assert_close(whisper.pad_features([features])["input_features"], expected, rtol=0, atol=1e-6)


def test_a_clip_longer_than_the_window_is_refused(whisper):
    with pytest.raises(InputError, match="at most 30 s"):
        whisper.features(np.zeros(16_000 * 31, dtype=np.float32))


def test_the_prompt_is_the_published_one(whisper):
    assert whisper.prompt_text("German") == "<|startoftranscript|><|de|><|transcribe|><|notimestamps|>"
    assert whisper.prompt_text("Filipino") == "<|startoftranscript|><|tl|><|transcribe|><|notimestamps|>"
    with pytest.raises(InputError, match="language 'Klingon' is not one of this Whisper model"):
        whisper.prompt_text("Klingon")


def test_an_english_model_has_the_short_prompt_and_refuses_other_languages(whisper, clips):
    whisper.model.generation_config.is_multilingual = False
    assert whisper.prompt_text("English") == whisper.prompt_text(None) == "<|startoftranscript|><|notimestamps|>"
    with pytest.raises(InputError, match="writes English"):
        whisper.prompt_text("German")
    prompts = whisper.embed_audio(whisper.prompts([whisper.features(clip) for clip in clips], [None] * len(clips)))
    assert prompts.input_ids.shape == (len(clips), 2)


def test_an_unknown_language_is_the_one_that_transformers_detects(whisper, clips):
    with torch.no_grad():
        for name, parameter in whisper.model.named_parameters():
            if parameter.dim() > 1 and "embed_positions" not in name:
                parameter.mul_(40 if "encoder_attn" in name else 4)
    features = [whisper.features(clip) for clip in clips]
    detected = whisper.model.detect_language(whisper.pad_features(features)["input_features"])
    assert len(set(detected.tolist())) > 1
    embedded = whisper.embed_audio(whisper.prompts(features, [None, "German", None, None]))
    expected = detected.clone()
    expected[1] = whisper.tokenizer.convert_tokens_to_ids("<|de|>")
    assert torch.equal(embedded.input_ids[:, 1], expected)
    transcripts = decode(whisper, whisper.prompts(features, [None, "German", None, None]), max_new_tokens=6)
    for index, tokens in enumerate(transcripts.tokens):
        alone = decode(whisper, embedded.select([index]), max_new_tokens=6)
        assert torch.equal(alone.tokens[0], tokens)


@pytest.mark.parametrize("sampled", [False, True])
def test_a_transcript_does_not_begin_with_a_token_that_may_not_begin_one(whisper, clips, sampled):
    features = [whisper.features(clip) for clip in clips]
    prompts = whisper.prompts(features, ["English"] * len(clips))
    uniforms = torch.rand(len(clips), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 8, "sampling": Sampling(1.0, uniforms) if sampled else None}
    written = decode(whisper, prompts, **options).tokens
    firsts = {int(tokens[0]) for tokens in written}
    whisper.model.generation_config.begin_suppress_tokens = sorted(firsts)
    fresh = Whisper(whisper.model, whisper.processor)
    again = decode(fresh, prompts, **options).tokens
    assert not firsts & {int(tokens[0]) for tokens in again}
    drafts = [tokens.tolist() for tokens in written]
    drafted = decode(fresh, prompts, drafts=drafts, **options).tokens
    assert [tokens.tolist() for tokens in drafted] == [tokens.tolist() for tokens in again]


def test_suppressed_tokens_and_timestamps_are_not_allowed(whisper):
    config = whisper.model.generation_config
    assert not whisper.allowed_tokens[config.suppress_tokens].any()
    assert not whisper.allowed_tokens[len(whisper.tokenizer) :].any()
    assert whisper.allowed_tokens[whisper.stop_token_id]
    assert not whisper.allowed_first_tokens[whisper.stop_token_id]


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("hello", " "),
        ("¿qué?", " "),
        ("今天", ""),
        ("ひと", ""),
        ("", ""),
        (" hello", ""),
        ("3月5日", ""),
        ("「今日は」", ""),
        ("3 apples", " "),
        ("བོད", ""),
    ],
)
def test_transcripts_begin_with_a_blank_where_words_do(whisper, text, prefix):
    ids = whisper.transcript_ids(text)
    assert whisper.transcript_text(ids) == prefix + text
    assert whisper.transcript_lengths([text]) == [len(ids)]


def test_more_tokens_than_the_decoder_has_positions_are_refused(whisper, clips):
    longest = whisper.longest_transcript
    whisper.model.generation_config.suppress_tokens = None
    prompts = whisper.prompts([whisper.features(clips[0])], ["English"])
    fresh = Whisper(whisper.model, whisper.processor)
    fresh.allowed_tokens[fresh.stop_token_id] = False
    assert len(decode(fresh, prompts, max_new_tokens=longest).tokens[0]) == longest
    with pytest.raises(InputError, match=f"max_new_tokens is {longest + 1}; the model writes at most {longest} tokens"):
        decode(fresh, prompts, max_new_tokens=longest + 1)


def test_a_saved_model_is_a_plain_whisper_folder(whisper, clips, tmp_path):
    whisper.save(tmp_path)
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    processor = WhisperProcessor.from_pretrained(tmp_path)
    inputs = processor(clips[2], sampling_rate=16_000, return_tensors="pt").input_features
    generated = model.generate(inputs, language="en", task="transcribe", max_new_tokens=6)[0]
    written = decode(whisper, whisper.prompts([whisper.features(clips[2])], ["English"]), max_new_tokens=6).tokens[0]
    assert generated[: len(written)].tolist() == written.tolist()
    assert model.generation_config.begin_suppress_tokens == whisper.model.generation_config.begin_suppress_tokens


def test_the_sinusoids_of_a_loaded_model_are_not_trained(whisper, tmp_path):
    whisper.save(tmp_path)
    loaded = load_recognizer(tmp_path)
    frozen = {name for name, parameter in loaded.model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"model.encoder.embed_positions.weight"}


def test_ids_without_a_logit_in_the_generation_config_are_left_out(whisper):
    config = whisper.model.generation_config
    config.suppress_tokens, config.begin_suppress_tokens = [5, 999_999, -1], [6, 999_999]
    fresh = Whisper(whisper.model, whisper.processor)
    assert not fresh.allowed_tokens[5]
    assert not fresh.allowed_first_tokens[6]


def test_a_transcript_longer_than_the_decoder_is_refused_before_it_is_read(whisper, clips):
    prompts = whisper.prompts([whisper.features(clips[0])], ["English"])
    with pytest.raises(InputError, match=r"the length of a transcript .* is 62; the model writes at most 61 tokens"):
        forced_logits(whisper, prompts, [torch.zeros(62, dtype=torch.long)])


def test_a_checkpoint_without_a_weight_is_refused(whisper, tmp_path):
    weights = dict(whisper.model.state_dict())
    del weights["model.decoder.layers.1.encoder_attn.q_proj.weight"]
    whisper.save(tmp_path, weights)
    with pytest.raises(InputError, match=r"has no weight model\.decoder\.layers\.1\.encoder_attn\.q_proj\.weight"):
        load_recognizer(tmp_path)
