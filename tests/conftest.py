import signal
import sys

import numpy as np
import pytest
import soxr
import torch

from arkasr.cli import main
from arkasr.data.audio import SAMPLE_RATE
from arkasr.data.corpora.espeak import ESPEAK_SAMPLE_RATE, Voice, speak
from arkasr.recognizers.whisper_window import with_window
from tests import models

SENTENCES = (
    "the red book is in london",
    "two green apples please",
    "mary met john today",
    "we will go to the station in the morning",
    "my brother has a new garden",
    "the weather is cold and the train is late",
)


@pytest.fixture(scope="session")
def vocabulary():
    return models.small_vocabulary()


@pytest.fixture
def student(vocabulary):
    return models.small_student(vocabulary)


@pytest.fixture
def teacher(vocabulary):
    return models.small_teacher(vocabulary)


@pytest.fixture
def whisper(vocabulary):
    return models.small_whisper(vocabulary)


@pytest.fixture
def short_whisper(vocabulary):
    """A Whisper model with a window of two seconds."""
    return with_window(models.small_whisper(vocabulary), 2)


@pytest.fixture(scope="session")
def whisper_folder(vocabulary, tmp_path_factory):
    """A folder with a Whisper model. Every weight of its encoder has an effect, positions and norms included."""
    folder = tmp_path_factory.mktemp("whisper")
    recognizer = models.small_whisper(vocabulary)
    with torch.no_grad():
        for parameter in recognizer.model.model.encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    recognizer.save(folder)
    return folder


@pytest.fixture
def student_from_whisper(vocabulary, whisper_folder):
    """An Ark-ASR student with the encoder of the model in `whisper_folder`."""
    return models.small_student_from_whisper(vocabulary, whisper_folder)


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs a command in this process. Returns its exit code, standard output and the lines of standard error."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["arkasr", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err.strip().splitlines()

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def noise_examples():
    """`models.noise_examples`: builds examples of noise for the given recognisers."""
    return models.noise_examples


@pytest.fixture(scope="session")
def spoken():
    """Sentences spoken by espeak-ng, float32 at 16 kHz."""
    voice = Voice("gmw/en-US", "m3")
    return [
        soxr.resample(speak(sentence, voice).astype(np.float32) / 2**15, ESPEAK_SAMPLE_RATE, SAMPLE_RATE)
        for sentence in SENTENCES
    ]


@pytest.fixture(scope="session")
def long_recording(spoken):
    """Ninety seconds of sentences with pauses of half a second, and the first sample of each sentence."""
    pause = np.zeros(8_000, dtype=np.float32)
    parts, begins, length = [], [], 0
    while length < 90 * 16_000:
        sentence = spoken[len(begins) % len(spoken)]
        begins.append(length)
        parts += [sentence, pause]
        length += len(sentence) + len(pause)
    return np.concatenate(parts), begins
