import pytest
import soundfile


@pytest.fixture
def folder(tmp_path):
    """A folder with two clips: `clips/a.wav` of 1 s, and `clips/b.flac` of 0.5 s."""
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "a.wav", [0.1] * 16_000, 16_000)
    soundfile.write(tmp_path / "clips" / "b.flac", [0.0] * 8_000, 16_000)
    return tmp_path
