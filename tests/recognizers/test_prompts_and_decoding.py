from functools import partial

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
)

from arkasr.errors import InputError
from arkasr.model.processor import transcription_conversation
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.scoring import forced_logits, forced_states

SECONDS = (0.05, 0.4, 1.7, 0.9, 3.1, 6.0)


@pytest.fixture
def clips():
    generator = np.random.default_rng(0)
    return [generator.normal(size=int(seconds * 16_000)).astype(np.float32) * 0.1 for seconds in SECONDS]


@pytest.fixture(params=["student", "teacher", "whisper"])
def recognizer(request):
    """Each family, with weights large enough for transcripts that depend on the audio."""
    chosen = request.getfixturevalue(request.param)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in chosen.model.named_parameters():
            if parameter.dim() > 1 and "embed" not in name and "lm_head" not in name:
                # Most of Whisper's window is silence.
                parameter.mul_(25 if "encoder_attn" in name else 2.5)
    chosen.model.eval()
    return chosen


def test_the_prompt_is_the_published_one(student):
    tokenizer = student.tokenizer
    ids = student.prompt_ids(frames=400, language=None)
    assert tokenizer.decode(ids) == (
        "<|user|><|begin_of_audio|>" + "<|audio|>" * 50 + "<|end_of_audio|>Please transcribe this audio.<|assistant|>"
    )
    assert ids[:2] == tokenizer.convert_tokens_to_ids(["<|user|>", "<|begin_of_audio|>"])


def test_training_and_inference_have_the_same_prompt_ids(student, clips):
    trained = student.prompts([student.features(clip) for clip in clips], [None] * len(clips))
    conversations = [transcription_conversation(clip) for clip in clips]
    inputs = student.processor.apply_chat_template(conversations, add_generation_prompt=True)
    assert torch.equal(trained.input_ids, inputs["input_ids"])
    assert torch.equal(trained.attention_mask, inputs["attention_mask"])
    assert torch.equal(trained.audio["audios"], inputs["audios"])
    assert torch.equal(trained.audio["audios_mask"], inputs["audios_mask"])


def test_qwen3_asr_prompts_equal_those_of_its_own_processor(teacher, clips):
    clips = [clip for clip in clips if len(clip) >= 8_000]  # its processor counts the padding of shorter clips as valid
    ours = teacher.prompts([teacher.features(clip) for clip in clips], ["English"] * len(clips))
    theirs = teacher.processor.apply_transcription_request(list(clips), language="English")
    assert torch.equal(ours.input_ids, theirs["input_ids"])
    assert torch.equal(ours.attention_mask, theirs["attention_mask"])
    assert torch.equal(ours.audio["input_features_mask"], theirs["input_features_mask"])
    valid = theirs["input_features_mask"].bool()[:, None].expand_as(theirs["input_features"])
    difference = (ours.audio["input_features"] - theirs["input_features"])[valid].abs()
    assert difference.median() < 1e-6


def test_qwen3_asr_prompts_name_the_language_and_refuse_an_unknown_one(teacher):
    assert teacher.prompt_text("Chinese").endswith("<|im_start|>assistant\nlanguage Chinese<asr_text>")
    with pytest.raises(InputError, match="language 'Klingon' cannot be forced"):
        teacher.prompt_text("Klingon")
    with pytest.raises(InputError, match="give every utterance a `language`"):
        teacher.prompt_text(None)


def test_results_do_not_depend_on_the_batch(recognizer, clips):
    features = [recognizer.features(clip) for clip in clips]
    texts = ["the red", "今天", "two green apples please", "a", "我要一张票", "mary"]
    transcripts = [recognizer.transcript_ids(text) for text in texts]
    languages = ["English"] * len(clips)
    with torch.no_grad():
        together = forced_logits(recognizer, recognizer.prompts(features, languages), transcripts)
        apart = torch.cat(
            [
                forced_logits(recognizer, recognizer.prompts([clip], ["English"]), [transcript])
                for clip, transcript in zip(features, transcripts, strict=True)
            ]
        )
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)

    batch = decode(recognizer, recognizer.prompts(features, languages), max_new_tokens=12)
    order = [4, 0, 5, 2, 1, 3]
    shuffled = recognizer.prompts([features[place] for place in order], languages)
    reordered = decode(recognizer, shuffled, max_new_tokens=12)
    for row, place in enumerate(order):
        single = decode(recognizer, recognizer.prompts([features[place]], ["English"]), max_new_tokens=12)
        assert torch.equal(batch.tokens[place], single.tokens[0])
        assert torch.equal(reordered.tokens[row], single.tokens[0])
    assert len({tuple(tokens.tolist()) for tokens in batch.tokens}) > 1


def test_forced_logits_equal_those_of_forward(recognizer, clips):
    features = recognizer.features(clips[2])
    transcript = recognizer.transcript_ids("two green apples")
    prompts = recognizer.prompts([features], ["English"])
    forced = forced_logits(recognizer, prompts, [transcript])
    whole = torch.cat((prompts.input_ids, transcript[None]), dim=1)
    name = "decoder_input_ids" if recognizer.model.config.is_encoder_decoder else "input_ids"
    logits = recognizer.model(**{name: whole}, **prompts.audio).logits[0]
    expected = logits[prompts.input_ids.shape[1] - 1 : -1]
    torch.testing.assert_close(forced, expected, rtol=1e-5, atol=1e-5)
    forced.sum().backward()
    assert recognizer.model.get_input_embeddings().weight.grad.any()


def test_greedy_decoding_equals_generate(recognizer, clips):
    """First without a stop token; then the commonest token becomes the stop token."""
    prompts = recognizer.prompts([recognizer.features(clip) for clip in clips], ["English"] * len(clips))
    written = decode(recognizer, prompts, max_new_tokens=10)
    generated = _generated(recognizer, prompts, max_new_tokens=10)
    for tokens, row in zip(written.tokens, generated, strict=True):
        assert torch.equal(tokens, row[: len(tokens)])
    blocked = (~recognizer.allowed_tokens).nonzero().squeeze(1)
    assert not torch.isin(torch.cat(written.tokens), blocked).any()
    states = forced_states(recognizer, prompts, written.tokens)
    torch.testing.assert_close(written.states, states, rtol=1e-5, atol=1e-5)

    common = torch.cat(written.tokens).mode().values.item()
    recognizer.stop_token_id = common
    stopped = decode(recognizer, prompts, max_new_tokens=10)
    assert stopped.stopped.any()
    for before, after, ended in zip(written.tokens, stopped.tokens, stopped.stopped, strict=True):
        assert torch.equal(after, before[: len(after)])
        assert (after == common).any() == ended
        assert not (after[:-1] == common).any()


def _generated(recognizer, prompts, max_new_tokens):
    """The tokens after the prompt that `generate` writes."""
    generate = partial(recognizer.model.generate, **prompts.audio, max_new_tokens=max_new_tokens)
    if recognizer.model.config.is_encoder_decoder:
        return generate(language="en", task="transcribe")
    written = generate(input_ids=prompts.input_ids, attention_mask=prompts.attention_mask)
    return written[:, prompts.input_ids.shape[1] :]


def test_a_saved_model_loads_unchanged(recognizer, clips, tmp_path):
    recognizer.save(tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.suffix in {".bin", ".pt", ".py"}]
    loaded = load_recognizer(tmp_path)
    features = [recognizer.features(clip) for clip in clips[:3]]
    prompts = recognizer.prompts(features, ["English"] * 3)
    again = loaded.prompts([loaded.features(clip) for clip in clips[:3]], ["English"] * 3)
    assert torch.equal(prompts.input_ids, again.input_ids)
    transcripts = [recognizer.transcript_ids("red")] * 3
    with torch.no_grad():
        expected = forced_logits(recognizer, prompts, transcripts)
        torch.testing.assert_close(forced_logits(loaded, again, transcripts), expected, rtol=0, atol=0)
    assert torch.equal(loaded.allowed_tokens, recognizer.allowed_tokens)
    head, embedding = loaded.model.get_output_embeddings().weight, loaded.model.get_input_embeddings().weight
    assert head.data_ptr() == embedding.data_ptr()


def test_the_auto_classes_load_ark_asr(student, tmp_path):
    student.save(tmp_path)
    for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForSpeechSeq2Seq):
        assert type(auto_class.from_pretrained(tmp_path)) is type(student.model)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(processor) is type(student.processor)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == student.tokenizer.get_vocab()
    assert processor.feature_extractor.feature_size == 40


def test_state_dict_names_are_those_of_the_published_files(student):
    names = set(student.model.state_dict())
    assert {
        "audio_encoder.whisper.conv1.weight",
        "audio_encoder.whisper.layers.0.self_attn.q_proj.bias",
        "audio_encoder.whisper.layers.0.self_attn.k_proj.weight",
        "audio_encoder.whisper.layers.0.self_attn_layer_norm.weight",
        "audio_encoder.whisper.layers.0.final_layer_norm.bias",
        "audio_encoder.whisper.layers.0.fc1.weight",
        "audio_encoder.layer_norm.weight",
        "audio_encoder.adapting.0.weight",
        "audio_encoder.adapting.2.bias",
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.norm.weight",
        "lm_head.weight",
    } <= names
    assert "audio_encoder.whisper.layers.0.self_attn.k_proj.bias" not in names
    assert "audio_encoder.whisper.layer_norm.weight" not in names


def test_families_share_base_ids_only(student, teacher):
    words = ["Ġred", "Ġapples", "a"]
    assert student.tokenizer.convert_tokens_to_ids(words) == teacher.tokenizer.convert_tokens_to_ids(words)
    assert student.tokenizer.convert_tokens_to_ids("<|audio|>") != teacher.processor.audio_token_id
    assert student.stop_token_id == student.tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("text", ["Ça va? — naïve café", "今天天气很好", "🙂 emoji", "tab\tand  blanks", ""])
def test_any_text_can_be_tokenised(student, text):
    ids = student.transcript_ids(text)
    assert ids[-1] == student.stop_token_id
    assert student.transcript_text(ids) == text


def test_the_error_for_an_unknown_model_is_one_line(tmp_path):
    with pytest.raises(InputError) as caught:
        load_recognizer(tmp_path / "absent")
    assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="is of type 'bert'; known are arkasr, qwen3_asr"):
        load_recognizer(tmp_path)


def test_every_family_runs_in_bfloat16(recognizer, clips):
    """bfloat16 is the default dtype on an accelerator."""
    prompts = recognizer.prompts([recognizer.features(clip) for clip in clips[:3]], ["English"] * 3)
    transcripts = [recognizer.transcript_ids("red apples")] * 3
    with torch.no_grad():
        expected = forced_logits(recognizer, prompts, transcripts)
        recognizer.model.bfloat16()
        found = forced_logits(recognizer, prompts, transcripts)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.05 * expected.norm()
    assert len(decode(recognizer, prompts, max_new_tokens=5).tokens) == 3
