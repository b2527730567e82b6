"""Labels from a teacher in vLLM against those from the teacher itself, for each family."""

import numpy as np
import pytest
import soundfile
import torch

from arkasr.data.manifests.manifest import read_manifest, write_manifest
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.qwen3_asr import QWEN3_ASR_PRESETS, build_qwen3_asr
from arkasr.recognizers.recognize import RecognitionSettings
from arkasr.teacher.label import label
from arkasr.vllm.engine import VllmEngine
from tests.vllm.test_engine import SIZES

pytestmark = pytest.mark.vllm
SETTINGS = RecognitionSettings(batch_seconds=5, max_new_tokens=20)


@pytest.fixture
def utterances(tmp_path):
    """Noise of several lengths, and an unreadable file."""
    generator = np.random.default_rng(0)
    (tmp_path / "broken.wav").write_bytes(b"no audio")
    rows = [{"audio": "broken.wav", "language": "English", "duration": 1.0}]
    for index, seconds in enumerate((1.1, 2.5, 1.7, 3.2)):
        soundfile.write(tmp_path / f"{index}.wav", generator.normal(size=int(seconds * 16_000)) * 0.1, 16_000)
        rows.append({"audio": f"{index}.wav", "language": "English"})
    write_manifest(tmp_path / "noise.jsonl", rows)
    return read_manifest(tmp_path / "noise.jsonl")


@pytest.mark.parametrize("family", ["arkasr", "qwen3_asr"])
def test_labels_from_vllm_equal_those_of_the_teacher_itself(family, vocabulary, utterances, tmp_path):
    torch.manual_seed(0)
    if family == "arkasr":
        teacher = build_ark_asr(SIZES, vocabulary)
    else:
        pytest.importorskip("torchvision", reason="vLLM's Qwen3-ASR imports it")
        teacher = build_qwen3_asr(QWEN3_ASR_PRESETS["qwen3-asr-tiny"], vocabulary)
    own = label(teacher, utterances, SETTINGS, drop_failures=False)
    engine = VllmEngine(teacher, max_new_tokens=SETTINGS.max_new_tokens, dtype="float32", cache_gib=0.1)
    found = label(teacher, utterances, SETTINGS, engine=engine, drop_failures=False)
    engine.close()
    assert found == own
    assert own.counts == {"kept": 4, "unreadable": 1}
    assert all(row["text"] for row in own.rows)
    teacher.save(tmp_path / "teacher")
    again = load_recognizer(tmp_path / "teacher")
    assert label(again, utterances, SETTINGS, drop_failures=False) == own
