"""Whisper's prompt, window, suppressed tokens, leading blank and languages."""

import json

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperProcessor

from arkasr.errors import InputError
from arkasr.recognizers.decoding import Sampling, decode
from arkasr.recognizers.inference import RecognitionSettings, recognize_clips
from arkasr.recognizers.load import load_recognizer, load_without_weights
from arkasr.recognizers.scoring import forced_logits
from arkasr.recognizers.whisper import NO_TIMESTAMPS_TOKEN, Whisper
from arkasr.train.augment import augment_features, join_utterances
from arkasr.train.settings import AugmentationSettings
from tests import models


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


def test_a_saved_model_has_the_files_that_converters_of_other_programs_read(whisper, tmp_path):
    whisper.save(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert vocabulary | added == whisper.tokenizer.get_vocab()
    extractor = WhisperFeatureExtractor.from_json_file(tmp_path / "preprocessor_config.json")
    assert extractor.feature_size == whisper.processor.feature_extractor.feature_size


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


def test_without_a_generation_config_a_transcript_begins_with_neither_blank_nor_stop_token(whisper, tmp_path):
    """The config that Transformers makes forbids 220 and 50256, the ids of English models."""
    expected = whisper.allowed_first_tokens
    whisper.save(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    for again in (load_recognizer(tmp_path), load_without_weights(tmp_path)):
        assert not again.allowed_first_tokens[again.stop_token_id]
        blank = again.tokenizer(" ", add_special_tokens=False)["input_ids"]
        assert not again.allowed_first_tokens[blank].any()
        assert again.allowed_first_tokens[: len(expected)][again.tokenizer("a", add_special_tokens=False)["input_ids"]]


def test_a_model_without_weights_has_the_generation_config_of_its_folder(whisper, tmp_path):
    whisper.save(tmp_path)
    empty = load_without_weights(tmp_path)
    assert empty.prompt_text("German") == whisper.prompt_text("German")
    assert torch.equal(empty.allowed_tokens, whisper.allowed_tokens)


def test_dropout_and_left_out_layers_of_a_checkpoint_are_not_used(whisper, clips, tmp_path):
    for name in Whisper.fixed_settings:
        setattr(whisper.model.config, name, 0.5)
    whisper.save(tmp_path)
    loaded = load_recognizer(tmp_path)
    loaded.model.train()
    prompts = loaded.prompts([loaded.features(clip) for clip in clips], ["English"] * len(clips))
    transcripts = [torch.arange(5)] * len(clips)
    once, again = (forced_logits(loaded, prompts, transcripts) for _ in range(2))
    assert torch.equal(once, again)
    loaded.save(tmp_path / "again")
    name = "generation_config.json"
    assert (tmp_path / "again" / name).read_text() == (tmp_path / name).read_text()


def test_a_tokenizer_without_a_token_of_the_prompt_is_refused(whisper, tmp_path):
    whisper.save(tmp_path)
    for file in tmp_path.glob("*.json"):
        file.write_text(file.read_text().replace(NO_TIMESTAMPS_TOKEN, "<|something|>"))
    with pytest.raises(InputError, match=r"has no <\|notimestamps\|>"):
        load_recognizer(tmp_path)


def test_a_feature_extractor_with_another_window_than_the_encoder_is_refused(whisper, tmp_path):
    whisper.processor.feature_extractor = WhisperFeatureExtractor(feature_size=40, chunk_length=15)
    whisper.save(tmp_path)
    with pytest.raises(InputError, match="has a window of 15 s, its encoder reads 30 s"):
        load_recognizer(tmp_path)


def test_hebrew_has_its_old_code_in_an_old_tokenizer(whisper, tmp_path):
    whisper.save(tmp_path)
    for file in tmp_path.glob("*.json"):
        file.write_text(file.read_text().replace("<|he|>", "<|iw|>"))
    assert load_recognizer(tmp_path).prompt_text("Hebrew").startswith("<|startoftranscript|><|iw|>")


def test_augmentation_leaves_the_silence_that_fills_the_window(whisper, clips):
    settings = AugmentationSettings(time_masks=30, time_width=30, frequency_width=30, time_stretch=0.2)
    [example] = models.noise_examples(whisper, seconds=(2.0,))
    before = example.features[whisper.frontend]
    for seed in range(20):
        [changed] = augment_features([example], settings, seed, [whisper])
        after = changed.features[whisper.frontend]
        assert torch.equal(after[:, -1], before[:, -1])
        assert not torch.equal(after[:, : before.shape[1] - 1], before[:, : after.shape[1] - 1])
        assert torch.equal(
            whisper.pad_features([after])["input_features"][0, :, after.shape[1] :].unique(), before[0, -1:]
        )


def test_texts_that_are_too_long_together_are_not_joined(whisper):
    long = "the red book is in london " * 2
    examples = models.noise_examples(whisper, seconds=(1.0, 1.0, 1.0), texts=[long, long, "the"])
    fits = [[whisper.can_write(len(whisper.transcript_ids(f"{a} {b}"))) for b in (long, "the")] for a in (long, "the")]
    assert fits == [[False, True], [True, True]]
    settings = AugmentationSettings(join_share=1.0)
    joined = [item for seed in range(20) for item in join_utterances(examples, settings, seed, [whisper])]
    lengths = {len(whisper.transcript_ids(item.utterance.text)) for item in joined if item.joined_from}
    assert lengths
    assert max(lengths) <= whisper.longest_transcript


def test_batches_count_the_window(whisper):
    utterances = [example.utterance for example in models.noise_examples(whisper)]
    batch_sizes = []
    features = [whisper.features(np.zeros(16_000, dtype=np.float32))] * len(utterances)

    def write(recognizer, prompts, **options):
        batch_sizes.append(len(prompts.lengths))
        return decode(recognizer, prompts, **options)

    settings = RecognitionSettings(batch_seconds=60, max_new_tokens=2)
    seconds = {index: utterance.duration for index, utterance in enumerate(utterances)}
    list(recognize_clips(whisper, seconds, features.__getitem__, lambda index: "English", settings, write))
    assert batch_sizes == [2, 2, 1]
