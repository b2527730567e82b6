"""Word times from a Whisper model."""

import itertools

import numpy as np
import pytest
import torch

from arkasr.transcribe.aligner import open_aligner
from arkasr.transcribe.transcriber import Transcriber, TranscriptionSettings
from arkasr.transcribe.transcript import Segment
from arkasr.transcribe.whisper_aligner import WhisperAligner, cheapest_path, frames_of_groups


@pytest.fixture
def folder(whisper, tmp_path):
    whisper.save(tmp_path / "whisper")
    return tmp_path / "whisper"


@pytest.fixture
def waveform():
    return (np.random.default_rng(0).normal(size=40_000) * 0.1).astype(np.float32)


def paths(rows, columns):
    """Every path from the first cell to the last one, as lists of cells."""
    if (rows, columns) == (1, 1):
        yield [(0, 0)]
        return
    for down, right in ((1, 0), (0, 1), (1, 1)):
        if rows - down >= 1 and columns - right >= 1:
            for path in paths(rows - down, columns - right):
                yield [*path, (rows - 1, columns - 1)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 5), (5, 3), (4, 4)])
def test_no_path_is_cheaper_than_the_one_found(shape):
    costs = np.random.default_rng(0).normal(size=shape)
    begins, ends = cheapest_path(costs)
    found = sum(costs[row, begins[row] : ends[row]].sum() for row in range(shape[0]))
    assert found == pytest.approx(min(sum(costs[cell] for cell in path) for path in paths(*shape)))
    assert begins[0] == 0
    assert ends[-1] == shape[1]


def test_words_do_not_lie_in_pauses():
    """Ten frames of speech, ten of pause, ten of speech. The scores alone would put word 1 into the pause."""
    scores = np.zeros((3, 30))
    scores[0, 0:5] = scores[1, 12:18] = scores[2, 25:30] = 2.0
    is_speech = np.array([True] * 10 + [False] * 10 + [True] * 10)
    times = frames_of_groups(scores, [range(1), range(1, 2), range(2, 3)], is_speech)
    assert all(is_speech[begin:end].all() for begin, end in times)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(times))
    assert times[0][0] == 0
    assert times[2][1] == 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the red book, in London!", ["the", "red", "book", "in", "London"]),
        ("今天去北京。", ["今", "天", "去", "北", "京"]),
        ("mary 一 john", ["mary", "一", "john"]),
        ("a" * 20, ["a" * 20]),
    ],
)
def test_every_word_has_a_time_within_its_segment(folder, waveform, text, words, dtype):
    aligner = open_aligner(folder, device="cpu", dtype=dtype)
    assert isinstance(aligner, WhisperAligner)
    segment = aligner.align(Segment(7.0, 9.5, text, "raw"), waveform, "English")
    assert [word.text for word in segment.words] == words
    times = [time for word in segment.words for time in (word.begin, word.end)]
    assert times == sorted(times)
    assert times[0] >= 7.0
    assert times[-1] <= 9.5
    assert (segment.text, segment.raw) == (text, "raw")


def test_a_multilingual_model_detects_the_language(folder, waveform):
    aligner = open_aligner(folder, device="cpu", dtype=torch.float32)
    assert len(aligner.align(Segment(0.0, 2.5, "two words", ""), waveform, None).words) == 2


def test_without_published_heads_the_upper_half_of_the_layers_is_used(folder, waveform):
    aligner = open_aligner(folder, device="cpu", dtype=torch.float32)
    config = aligner.recognizer.model.generation_config
    segment = Segment(0.0, 2.5, "the red book", "")
    found = aligner.align(segment, waveform, "English")
    config.alignment_heads = [[1, 0], [1, 1]]
    assert aligner.align(segment, waveform, "English") == found
    config.alignment_heads = [[0, 1]]
    assert aligner.align(segment, waveform, "English") != found


@pytest.mark.parametrize(
    ("text", "language", "seconds"),
    [("...", "English", 1), ("", None, 1), ("red", "Klingon", 1), ("red " * 80, "English", 1), ("red", "English", 31)],
)
def test_what_the_model_cannot_read_has_no_words(folder, text, language, seconds):
    aligner = open_aligner(folder, device="cpu", dtype=torch.float32)
    waveform = np.zeros(16_000 * seconds, dtype=np.float32)
    segment = Segment(0.0, float(seconds), text, "")
    assert aligner.align(segment, waveform, language) == segment


def test_a_transcriber_of_another_family_gets_words(student, spoken, folder):
    settings = TranscriptionSettings(max_new_tokens=12)
    found = Transcriber(student, aligner=folder, settings=settings, language="English")(spoken[0])
    [segment] = found.segments
    assert segment.begin <= segment.words[0].begin <= segment.words[-1].end <= segment.end
