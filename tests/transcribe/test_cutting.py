"""Cutting goes in small steps, so that it can be given up."""

import numpy as np
import pytest

from arkasr.transcribe.cutting import cut_in_steps
from arkasr.transcribe.recording import Recording
from tests.audio_files import FORMATS, write_audio


@pytest.fixture(scope="module")
def half_an_hour(tmp_path_factory):
    """A file whose header has no length, so it must be decoded to its end."""
    folder = tmp_path_factory.mktemp("half an hour")
    write_audio(folder / "minute.aac", np.zeros(60 * 16_000, dtype=np.float32), FORMATS["raw.aac"])
    (folder / "a.aac").write_bytes((folder / "minute.aac").read_bytes() * 30)
    return Recording(folder / "a.aac")


def run(steps):
    """What a generator returns, and how many steps it made."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            return finished.value, count
        count += 1


def test_a_recording_is_decoded_no_further_than_the_limit(half_an_hour):
    whole, steps = run(cut_in_steps(half_an_hour, 30.0, 30.0))
    assert whole.error is None
    assert whole.seconds == pytest.approx(1_800, abs=5)
    assert steps > 15
    cut, steps = run(cut_in_steps(half_an_hour, 30.0, 30.0, 180.0))
    assert cut.error.endswith("a.aac: is longer than 0.05 h, the limit; send parts")
    assert 1 <= steps <= 3
