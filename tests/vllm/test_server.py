"""vLLM's own server with the plugin gives the transcripts of this package."""

import io

import httpx2
import numpy as np
import pytest
import soundfile
import torch

from arkasr.model.layout import LAYOUTS
from arkasr.recognizers.ark_asr import ArkAsr, build_ark_asr
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.text import clean_transcript
from tests.vllm.server import VllmServer
from tests.vllm.test_engine import SIZES

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def student(vocabulary):
    torch.manual_seed(0)
    return build_ark_asr(SIZES, vocabulary)


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def url(request, student, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    LAYOUTS[request.param](student.model, student.processor, folder / "model", "5GB")
    server = VllmServer(folder / "model", folder / "log.txt", "--served-model-name", "ark", "--enforce-eager").start()
    try:
        yield server.wait().url
    finally:
        server.kill()


def transcript_of(student: ArkAsr, waveform: np.ndarray) -> str:
    written = decode(student, student.prompts([student.features(waveform)], [None]), max_new_tokens=256)
    return clean_transcript(student.transcript_text(written.tokens[0]))


def test_the_server_gives_the_transcripts_of_this_package(url, student):
    """The first clip is sent twice, since vLLM caches clips."""
    generator = np.random.default_rng(0)
    clips = [generator.normal(size=int(seconds * 16_000)).astype(np.float32) * 0.1 for seconds in (0.9, 2.0, 0.01)]
    for clip in (*clips, clips[0]):
        file = io.BytesIO()
        soundfile.write(file, clip, 16_000, format="WAV", subtype="FLOAT")
        response = httpx2.post(
            f"{url}/v1/audio/transcriptions",
            files={"file": ("clip.wav", file.getvalue())},
            data={"model": "ark", "language": "en"},
            timeout=60,
        )
        assert response.status_code == 200, response.text
        assert response.json()["text"] == transcript_of(student, clip)
