import time

import numpy as np
import pytest
import soundfile
import torch

from arkasr.errors import InputError
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.journal import Journal
from arkasr.recognizers.recognition import Recognition
from arkasr.transcribe.cutting import cut_recording
from arkasr.transcribe.recording import Recording
from arkasr.transcribe.transcriber import Transcriber, TranscriptionSettings
from arkasr.transcribe.transcript import segment_of


def transcriber(student, **settings):
    return Transcriber(student, settings=TranscriptionSettings(**({"max_new_tokens": 16} | settings)))


@pytest.fixture(scope="module")
def clips():
    """64 clips of noise, 0.1 to 30 s, with rising volume."""
    generator = np.random.default_rng(0)
    lengths = np.geomspace(0.1, 30, 64)
    generator.shuffle(lengths)
    return [
        Recording(
            (generator.normal(size=int(seconds * 16_000)) * np.linspace(0.01, 0.3, int(seconds * 16_000))).astype("f4"),
            find_speech=False,
        )
        for seconds in lengths
    ]


def test_a_transcript_does_not_depend_on_batch_or_order(student, clips):
    alone = [found.raw for found in transcriber(student, batch_clips=1).transcribe(clips)]
    by_eight = [found.raw for found in transcriber(student, batch_clips=8).transcribe(clips)]
    together = transcriber(student, batch_clips=64, batch_seconds=2_000.0)
    assert [found.raw for found in together.transcribe(clips)] == by_eight == alone
    order = np.random.default_rng(1).permutation(64)
    shuffled = [found.raw for found in together.transcribe([clips[index] for index in order])]
    assert shuffled == [alone[index] for index in order]
    assert len(set(alone)) > 50


def test_the_size_of_a_window_does_not_change_transcripts(student, clips, monkeypatch):
    expected = [found.raw for found in transcriber(student).transcribe(clips[:20])]
    monkeypatch.setattr("arkasr.transcribe.transcriber.WINDOW_RECORDINGS", 3)
    assert [found.raw for found in transcriber(student).transcribe(clips[:20])] == expected


def test_a_long_recording_has_a_segment_per_piece(student, long_recording):
    waveform, _ = long_recording
    found = transcriber(student, piece_seconds=12.0)(waveform)
    assert len(found.segments) > 7
    assert all(0 < segment.end - segment.begin <= 12 for segment in found.segments)
    assert found.seconds == len(waveform) / 16_000
    for segment in found.segments:
        piece = waveform[round(segment.begin * 16_000) : round(segment.end * 16_000)]
        prompts = student.prompts([student.features(piece)], [None])
        tokens = decode(student, prompts, max_new_tokens=16).tokens[0]
        assert segment.raw == student.transcript_text(tokens)
    assert found.raw.split() == " ".join(segment.raw for segment in found.segments).split()


def test_a_file_and_its_waveform_give_the_same_transcript(student, long_recording, tmp_path):
    waveform, _ = long_recording
    soundfile.write(tmp_path / "long.wav", waveform, 16_000, subtype="FLOAT")
    assert transcriber(student)(tmp_path / "long.wav") == transcriber(student)(waveform)


@pytest.mark.parametrize("seconds", [0.00007, 0.05, 10.0, 60.0])
def test_silence_and_noise_give_no_text(student, seconds):
    samples = max(int(seconds * 16_000), 1)
    noise = (np.random.default_rng(0).normal(size=samples) * 0.05).astype(np.float32)
    for waveform in (np.zeros(samples, dtype=np.float32), noise):
        found = transcriber(student)(waveform)
        assert (found.text, found.segments, found.error) == ("", (), None)


def test_short_recordings_can_be_decoded_uncut(student):
    noise = (np.random.default_rng(0).normal(size=32_000) * 0.1).astype(np.float32)
    assert transcriber(student)(Recording(noise, find_speech=False)).segments[0].end == 2.0


def test_one_bad_recording_does_not_stop_the_rest(student, long_recording, tmp_path):
    waveform, _ = long_recording
    good = tmp_path / "good.flac"
    soundfile.write(good, waveform[: 5 * 16_000], 16_000)
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing")
    cut = tmp_path / "cut.wav"
    soundfile.write(cut, waveform, 16_000)
    cut.write_bytes(cut.read_bytes()[: 60 * 32_000])
    found = list(transcriber(student).transcribe([tmp_path / "bad.wav", good, tmp_path / "absent.mp3", cut, good]))
    assert "not audio that can be read" in found[0].error
    assert "no such audio file" in found[2].error
    assert found[1] == found[4]
    assert found[1].error is None
    assert found[1].text
    with pytest.raises(InputError, match=r"absent\.mp3: no such audio file"):
        transcriber(student)(tmp_path / "absent.mp3")


def test_loops_and_truncation_are_flagged_and_the_text_is_kept(student, spoken):
    found = transcriber(student)(spoken[0])
    assert found.flags == ["truncated"]
    loop = segment_of(Recognition("so so so so", "so so so so", 5, True), 0.0, 1.0)
    assert (loop.flags, loop.text) == (("looping",), "so so so so")
    assert segment_of(Recognition("fine", "fine", 2, True), 0.0, 1.0).flags == ()


def test_progress_adds_up(student, clips, long_recording):
    reports = []
    recordings = [*clips[:5], Recording(long_recording[0]), Recording(np.zeros(160_000, dtype=np.float32))]
    list(transcriber(student).transcribe(recordings, on_progress=lambda *done: reports.append(done)))
    assert sum(seconds for seconds, _ in reports) == pytest.approx(sum(item.seconds() for item in recordings))
    assert sum(count for _, count in reports) == pytest.approx(len(recordings))


def test_pieces_in_the_journal_are_not_decoded_again(student, long_recording, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.wav", long_recording[0], 16_000, subtype="FLOAT")
    run = {"model": "tiny"}
    expected = transcriber(student)(tmp_path / "long.wav")
    with Journal(tmp_path / "journal", run) as journal:
        list(transcriber(student).transcribe([tmp_path / "long.wav"], journal=journal))
    monkeypatch.setattr(student, "features", lambda waveform: pytest.fail("was decoded again"))
    with Journal(tmp_path / "journal", run) as journal:
        assert list(transcriber(student).transcribe([tmp_path / "long.wav"], journal=journal)) == [expected]


def test_a_changed_file_is_decoded_again(student, spoken, tmp_path):
    path, journal_path = tmp_path / "speech.wav", tmp_path / "journal"
    texts = []
    for sentence in (spoken[0], spoken[3]):
        soundfile.write(path, sentence, 16_000, subtype="FLOAT")
        with Journal(journal_path, {}) as journal:
            texts.append(next(transcriber(student).transcribe([path], journal=journal)).raw)
    assert texts[0] != texts[1]


def test_a_recording_that_ends_after_its_file_is_an_error(student, long_recording, tmp_path):
    soundfile.write(tmp_path / "a.flac", long_recording[0][:160_000], 16_000)
    recording = Recording(tmp_path / "a.flac", begin_time=2.0, end_time=12.0)
    with pytest.raises(
        InputError, match=r"a\.flac: no audio at `end_time` 12 s, it is 10\.00 s long; correct the times"
    ):
        transcriber(student)(recording)


def test_failed_pieces_are_not_stored(student, long_recording, tmp_path):
    path = tmp_path / "cut.flac"
    soundfile.write(path, long_recording[0], 16_000)
    path.write_bytes(path.read_bytes()[:200_000])
    recording = [Recording(path, find_speech=False, begin_time=60.0, end_time=80.0)]
    with Journal(tmp_path / "journal", {}) as journal:
        assert str(path) in next(transcriber(student).transcribe(recording, journal=journal)).error
    assert len((tmp_path / "journal").read_text().splitlines()) <= 1


@pytest.mark.parametrize(
    "waveform", [np.zeros((2, 100)), np.array([0.0, np.nan]), np.float32(0), np.zeros(1_000, dtype=np.int16)]
)
def test_a_bad_waveform_is_an_error(student, spoken, waveform):
    good, bad, again = transcriber(student).transcribe([spoken[0], waveform, spoken[0]])
    assert "give finite floats of one channel" in bad.error
    assert good == again
    assert good.text


def test_closing_early_does_not_wait_for_the_next_window(student, spoken, monkeypatch):
    monkeypatch.setattr("arkasr.transcribe.transcriber.WINDOW_RECORDINGS", 2)
    cuts = []
    monkeypatch.setattr(
        "arkasr.transcribe.transcriber.cut_recording",
        lambda *given: cuts.append(time.sleep(0.2)) or cut_recording(*given),
    )
    found = transcriber(student).transcribe([spoken[0]] * 2 + [spoken[1]] * 2 + [spoken[2]] * 50)
    next(found)
    found.close()
    assert len(cuts) <= 5


def test_an_utterance_of_30_seconds_is_not_cut(student):
    noise = (np.random.default_rng(0).normal(size=40 * 16_000) * 0.1).astype(np.float32)
    found = transcriber(student)(Recording(noise, 2.2, 32.2, find_speech=False))
    assert [(segment.begin, segment.end) for segment in found.segments] == [(0.0, 30.0)]


def test_a_missing_device_is_an_error(student):
    with pytest.raises(InputError, match="device bogus: there is no such kind"):
        Transcriber(student, device="bogus")
    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(InputError, match=f"device {absent}: this machine, or this build of PyTorch, has none"):
        Transcriber(student, device=absent)


def test_the_journal_distinguishes_languages(teacher, spoken, tmp_path):
    soundfile.write(tmp_path / "a.wav", spoken[0], 16_000, subtype="FLOAT")
    settings = TranscriptionSettings(max_new_tokens=6)
    recordings = [Recording(tmp_path / "a.wav", language=language) for language in ("English", "Chinese")]
    expected = [found.raw for found in Transcriber(teacher, settings=settings).transcribe(recordings)]
    for _ in range(2):
        with Journal(tmp_path / "journal", {}) as journal:
            found = list(Transcriber(teacher, settings=settings).transcribe(recordings, journal=journal))
        assert [item.raw for item in found] == expected
    assert len((tmp_path / "journal").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"piece_seconds": 31.0}, "piece_seconds is 31; give 1 to 30"),
        ({"piece_seconds": 0.0}, "piece_seconds is 0; give 1 to 30"),
        ({"batch_seconds": 0.0}, "batch_seconds is 0; it must be more than 0"),
        ({"batch_clips": -1}, "batch_clips is -1; it must be more than 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        TranscriptionSettings(**settings)


def test_a_teacher_transcribes_and_needs_a_language(teacher, spoken):
    settings = TranscriptionSettings(max_new_tokens=4)
    assert Transcriber(teacher, language="en", settings=settings)(spoken[0]).error is None
    with pytest.raises(InputError, match="give every utterance a `language`"):
        Transcriber(teacher, settings=settings)(spoken[0])
