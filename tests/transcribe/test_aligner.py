import numpy as np
import pytest
import torch
from transformers import Qwen3ASRForTokenClassification

from arkasr.errors import InputError
from arkasr.transcribe.aligner import Aligner, open_aligner
from arkasr.transcribe.transcriber import Transcriber, TranscriptionSettings
from arkasr.transcribe.transcript import Segment

ALIGNER_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>"
    "{% else %}{{ part['text'] }}<timestamp><timestamp>{% endif %}{% endfor %}{% endfor %}"
)


@pytest.fixture
def aligner_folder(teacher, tmp_path):
    """A small aligner of the published classes with random weights."""
    config = teacher.model.config
    config.num_labels = 100
    config.timestamp_token_id = teacher.tokenizer.convert_tokens_to_ids("<timestamp>")
    torch.manual_seed(3)
    model = Qwen3ASRForTokenClassification(config)
    teacher.processor.chat_template = ALIGNER_TEMPLATE
    model.save_pretrained(tmp_path)
    teacher.processor.save_pretrained(tmp_path)
    return tmp_path


def test_every_word_gets_a_time_within_its_segment(aligner_folder):
    aligner = Aligner(aligner_folder, device="cpu", dtype=torch.float32)
    waveform = (np.random.default_rng(0).normal(size=40_000) * 0.1).astype(np.float32)
    segment = aligner.align(Segment(7.0, 9.5, "It's red, 今天!", ""), waveform, None)
    assert [word.text for word in segment.words] == ["It's", "red", "今", "天"]
    assert all(7.0 <= word.begin <= word.end <= 9.5 for word in segment.words)
    begins = [word.begin for word in segment.words]
    assert begins == sorted(begins)
    assert segment.text == "It's red, 今天!"


def test_texts_that_cannot_be_aligned_have_no_words(aligner_folder):
    aligner = Aligner(aligner_folder, device="cpu", dtype=torch.float32)
    waveform = np.zeros(16_000, dtype=np.float32)
    for text, language in (("hyvää huomenta", "Finnish"), ("", None), ("...", "English")):
        assert aligner.align(Segment(0.0, 1.0, text, ""), waveform, language).words is None


def test_a_transcriber_with_an_aligner_gives_words(student, spoken, aligner_folder):
    settings = TranscriptionSettings(max_new_tokens=12)
    found = Transcriber(student, aligner=aligner_folder, settings=settings)(spoken[0])
    segment = found.segments[0]
    assert segment.words
    assert segment.begin <= segment.words[0].begin <= segment.words[-1].end <= segment.end


def test_a_model_that_is_no_aligner_is_refused(student, teacher, tmp_path):
    """A Qwen3-ASR recogniser has the aligner's class, and would give the times of a random head."""
    student.save(tmp_path / "ark-asr")
    teacher.save(tmp_path / "qwen3-asr")
    for name, reason in (("ark-asr", ""), ("qwen3-asr", r"score\.weight"), ("nothing", "")):
        with pytest.raises(InputError, match=rf"aligner.*{name}.*{reason}.*Qwen3 forced aligner") as error:
            open_aligner(tmp_path / name, device="cpu", dtype=torch.float32)
        assert "\n" not in str(error.value)
