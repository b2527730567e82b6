"""Every container and codec gives the same recording: content, times, pieces, and length."""

import tarfile

import numpy as np
import pytest
import soundfile

from arkasr.data.audio import SAMPLE_RATE, decode_audio, duration_of, is_silent
from arkasr.errors import InputError
from tests.audio_files import FORMATS, FfmpegFormat, remux, write_audio

SECONDS = 9
# Encoders of these formats delay the sound, and the file does not say so: FFmpeg's AAC by 1,024 samples, WMA by 2,048.
LATEST_SECONDS = {"raw.aac": 0.025, "a.ts": 0.025, "a.wma": 0.05}
LEAST_SIMILAR = {"a.amr": 0.4, "gsm.wav": 0.7}  # made for voices, not for noise
# The decoder fills quiet bands with noise, another one each time.
NOISY_CODECS = {"aac.m4a", "raw.aac", "aac.mkv", "film.mp4", "a.ac3", "44.ac3", "a.ts"}


@pytest.fixture(scope="module")
def voice():
    """Noise in the band of a voice, in syllables, float32 `[samples]` at 16 kHz; no two parts are alike."""
    generator = np.random.default_rng(0)
    spectrum = np.fft.rfft(generator.normal(size=SECONDS * SAMPLE_RATE))
    frequencies = np.fft.rfftfreq(SECONDS * SAMPLE_RATE, 1 / SAMPLE_RATE)
    noise = np.fft.irfft(np.where((frequencies > 150) & (frequencies < 2_500), spectrum, 0))
    syllables = np.repeat(generator.uniform(0.05, 1.0, size=SECONDS * 5), SAMPLE_RATE // 5)
    return (0.3 * noise / np.abs(noise).max() * syllables).astype(np.float32)


@pytest.fixture(scope="module")
def folder(voice, tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    for name, form in FORMATS.items():
        write_audio(folder / name, voice, form)
    remux(folder / "a.ogg", folder / "vorbis-blocks.mkv")
    return folder


ALL = [*FORMATS, "vorbis-blocks.mkv"]


def lag_and_similarity(samples, expected):
    """Samples by which the first is later, and the cosine of the two at this lag."""
    size = 2 * SECONDS * SAMPLE_RATE
    product = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(expected, size))
    correlation = np.fft.irfft(product)
    lag = int(np.argmax(correlation))
    cosine = correlation[lag] / (np.linalg.norm(samples) * np.linalg.norm(expected))
    return (lag if lag < size // 2 else lag - size), cosine


@pytest.mark.parametrize("name", ALL)
def test_the_sound_is_where_it_was_written(folder, voice, name):
    samples = decode_audio(folder / name)
    lag, similarity = lag_and_similarity(samples, voice)
    assert abs(lag) / SAMPLE_RATE <= LATEST_SECONDS.get(name, 0.006)
    assert similarity > LEAST_SIMILAR.get(name, 0.95)
    assert 0 <= len(samples) / SAMPLE_RATE - SECONDS + max(-lag, 0) / SAMPLE_RATE < 0.1
    assert duration_of(folder / name) == pytest.approx(len(samples) / SAMPLE_RATE, abs=1e-4)
    assert not is_silent(folder / name)


@pytest.mark.parametrize("name", ALL)
def test_a_piece_equals_that_piece_of_the_whole_file(folder, name):
    whole = decode_audio(folder / name)
    noise = 0.01 if name in NOISY_CODECS else 2e-5
    for begin, end in ((0.0, 0.3), (0.97, 2.5), (3.3, 3.4), (5.123, 8.0), (7.7, None)):
        piece = decode_audio(folder / name, begin, end)
        expected = whole[round(begin * SAMPLE_RATE) : None if end is None else round(end * SAMPLE_RATE)]
        assert len(piece) == len(expected)
        assert np.abs(piece - expected).max() < (1e-3 if len(piece) else 0) + noise


@pytest.mark.parametrize("name", ["16.wav", "a.flac", "vbr.mp3", "aac.m4a", "opus.webm", "film.mp4"])
def test_a_member_of_a_tar_has_the_samples_of_the_file(folder, name, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / name, name)
    with tarfile.open(tmp_path / "a.tar") as tar:
        member = tar.getmember(name)
    part = f"{tmp_path / 'a.tar'}:{member.offset_data}:{member.size}"
    assert np.array_equal(decode_audio(part, 2.0, 4.0), decode_audio(folder / name, 2.0, 4.0))


@pytest.mark.parametrize("name", ["vbr.mp3", "cbr.mp3", "a.ogg", "a.opus", "raw.aac", "a.amr", "a.ac3", "a.ts"])
def test_of_files_joined_end_to_end_all_is_heard(folder, name, tmp_path, voice):
    (tmp_path / name).write_bytes(2 * (folder / name).read_bytes())
    samples = decode_audio(tmp_path / name)
    assert len(samples) / SAMPLE_RATE == pytest.approx(2 * SECONDS, abs=0.2)
    assert duration_of(tmp_path / name) == pytest.approx(len(samples) / SAMPLE_RATE, abs=1e-4)
    second = decode_audio(tmp_path / name, float(SECONDS), 2.0 * SECONDS)
    _, similarity = lag_and_similarity(second, voice)
    assert similarity > LEAST_SIMILAR.get(name, 0.95)
    assert np.abs(second - samples[SECONDS * SAMPLE_RATE : 2 * SECONDS * SAMPLE_RATE]).max() < 0.02


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    "name", ["16.wav", "a.w64", "a.rf64", "a.aiff", "a.au", "a.caf", "a.sph", "a.flac", "a.ogg", "a.opus", "vbr.mp3"]
)
def test_a_cut_file_is_refused(folder, name, share, tmp_path):
    data = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(data[: round(share * len(data))])
    for read in (decode_audio, duration_of, is_silent):
        if (name, read) == ("a.flac", duration_of):  # the header's length is right; only decoding finds the cut
            continue
        with pytest.raises(InputError, match=name):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["aac.m4a", "film.mp4", "opus.webm", "a.wma"])
def test_a_cut_container_is_refused(folder, name, tmp_path):
    data = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=name):
        decode_audio(tmp_path / name)


def test_an_mp3_without_its_number_of_frames_is_read_to_its_end(folder, voice, tmp_path):
    """Of a variable bit rate, the first frames say nothing about the length."""
    data = (folder / "vbr.mp3").read_bytes()
    frame = next(place for place in range(100, 3000) if data[place : place + 2] == data[:2])
    (tmp_path / "a.mp3").write_bytes(data[frame:])
    samples = decode_audio(tmp_path / "a.mp3")
    assert len(samples) / SAMPLE_RATE == pytest.approx(SECONDS, abs=0.15)
    assert lag_and_similarity(samples, voice)[1] > 0.9


def test_sizes_that_a_program_never_filled_in(folder, voice, tmp_path):
    """Zero or too little after a crash or beyond 4 GiB; a huge size from a pipe."""
    data = bytearray((folder / "16.wav").read_bytes())
    place = data.index(b"data") + 4
    for size in (0, 100_000, 0xFFFF_FFFF, 0x7FFF_F000, 0x7FFF_FFFF - 36):
        data[place : place + 4] = size.to_bytes(4, "little")
        (tmp_path / "a.wav").write_bytes(data)
        assert np.abs(decode_audio(tmp_path / "a.wav") - voice).max() < 1e-4
        assert np.abs(decode_audio(tmp_path / "a.wav", 3.0, 4.0) - voice[48_000:64_000]).max() < 1e-4


def test_a_cut_wav_of_more_than_two_gigabytes_is_refused(folder, tmp_path):
    data = bytearray((folder / "16.wav").read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = (3 * 2**30).to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    with pytest.raises(InputError, match=r"ends at 9\.00 s, its header says 100"):
        decode_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["opus.webm", "aac.mkv", "flac.mkv", "aac.m4a"])
def test_a_gap_between_timestamps_is_silence(voice, tmp_path, name):
    """A recorder that stops at silence leaves gaps. Pieces in and beside them are the same as of the whole."""
    path = tmp_path / name
    write_audio(path, voice, FORMATS[name], gap=(3.0, 4.0))
    whole = decode_audio(path)
    assert len(whole) / SAMPLE_RATE == pytest.approx(SECONDS + 4, abs=0.1)
    assert duration_of(path) == pytest.approx(len(whole) / SAMPLE_RATE, abs=1e-3)
    assert np.abs(whole[4 * SAMPLE_RATE : 6 * SAMPLE_RATE]).max() < 1e-3
    for begin, end in ((2.0, 4.5), (4.0, 4.1), (5.0, 7.5), (8.0, 9.0), (2.9, 3.2)):
        piece = decode_audio(path, begin, end)
        assert np.abs(piece - whole[round(begin * SAMPLE_RATE) : round(end * SAMPLE_RATE)]).max() < 0.02
    with pytest.raises(InputError, match="the models take at most"):
        decode_audio(path, max_seconds=5.0)


@pytest.mark.parametrize("name", ["opus.webm", "aac.mkv", "a.opus"])
def test_sound_that_begins_late_is_not_taken_for_cut(voice, tmp_path, name):
    form = FORMATS[name] if name != "a.opus" else FfmpegFormat("ogg", "libopus", 48_000)
    write_audio(tmp_path / name, voice, form, begin=5.0)
    lag, similarity = lag_and_similarity(decode_audio(tmp_path / name), voice)
    assert abs(lag) < 100
    assert similarity > 0.95


def test_a_page_that_is_lost_from_ogg_is_damage(folder, tmp_path):
    data = bytearray((folder / "a.opus").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "a.opus").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.opus: damaged at \d\.\d\d s \(\d\.\d\d s lost\); replace it"):
        decode_audio(tmp_path / "a.opus")


def test_a_short_recording_joined_with_a_long_one_is_heard_to_the_end(folder, voice, tmp_path):
    for name in ("a.ogg", "a.opus"):
        write_audio(tmp_path / name, voice[:4_000], FORMATS[name])
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + (folder / name).read_bytes())
        assert duration_of(tmp_path / name) == pytest.approx(SECONDS + 0.25, abs=0.1)
        assert len(decode_audio(tmp_path / name, 5.0, 7.0)) == 2 * SAMPLE_RATE


@pytest.mark.parametrize("name", ["aac.m4a", "vbr.mp3", "opus.webm", "16.wav"])
def test_times_after_the_end_are_named(folder, name):
    with pytest.raises(InputError, match=r"no audio after 20 s, the file is 9\.?\d* s long; leave it out"):
        decode_audio(folder / name, 20.0, 21.0)


def test_a_header_that_claims_too_much_needs_no_memory(folder, tmp_path):
    data = bytearray((folder / "a.flac").read_bytes())
    data[21:26] = bytes([data[21] | 0x0F]) + b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.flac: "):
        decode_audio(tmp_path / "a.flac")


def test_what_cannot_be_opened_is_one_error(tmp_path):
    (tmp_path / "empty.mp3").write_bytes(b"")
    for path, message in (
        (tmp_path / "empty.mp3", "is empty; leave it out"),
        (tmp_path / f"{'n' * 300}.wav", "File name too long"),
        (tmp_path, "no such audio file"),
    ):
        with pytest.raises(InputError, match=message):
            decode_audio(path)


@pytest.mark.parametrize("name", ["16.wav", "a.flac", "vbr.mp3"])
def test_a_tag_before_the_audio_changes_nothing(folder, name, tmp_path):
    tag = b"ID3\x03\x00\x00" + bytes((0, 6, 13, 32)) + bytes(6 * 2**14 + 13 * 2**7 + 32)
    (tmp_path / name).write_bytes(tag + (folder / name).read_bytes())
    expected = decode_audio(folder / name)
    assert np.array_equal(decode_audio(tmp_path / name), expected)
    part = tmp_path / "a.tar"
    part.write_bytes(bytes(512) + (tmp_path / name).read_bytes())
    assert np.array_equal(decode_audio(f"{part}:512:{(tmp_path / name).stat().st_size}"), expected)


def test_channels_that_cancel_each_other_are_not_averaged(voice, tmp_path):
    channels = {
        "inverted": [voice, -voice],
        "inverted and quieter": [voice, -0.8 * voice],
        "inverted with an offset": [voice + 0.02, 0.02 - voice],
        "silent": [voice, 0 * voice],
        "both": [voice, voice],
    }
    for name, samples in channels.items():
        soundfile.write(tmp_path / f"{name}.wav", np.stack(samples, axis=1), SAMPLE_RATE, subtype="FLOAT")
        decoded = decode_audio(tmp_path / f"{name}.wav")
        lag, similarity = lag_and_similarity(decoded - decoded.mean(), voice)
        assert (lag, round(similarity, 3)) == (0, 1.0)
        assert np.abs(decoded).max() >= 0.49 * np.abs(voice).max()


def test_a_file_that_names_other_files_is_not_followed(folder, tmp_path):
    (tmp_path / "list.mp3").write_text(f"#EXTM3U\n#EXTINF:9,\n{folder / 'vbr.mp3'}\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.wav").write_text(f"ffconcat version 1.0\nfile '{folder / '16.wav'}'\n")
    for name in ("list.mp3", "list.wav"):
        with pytest.raises(InputError, match="not audio that can be read"):
            decode_audio(tmp_path / name)


def test_a_film_without_sound_is_refused(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for packet in [*stream.encode(av.VideoFrame(32, 32, "yuv420p")), *stream.encode(None)]:
            container.mux(packet)
    with pytest.raises(InputError, match=r"a\.mp4: has no sound; leave it out"):
        decode_audio(tmp_path / "a.mp4")
