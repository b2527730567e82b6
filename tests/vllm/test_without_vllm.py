"""Behaviour without vLLM installed."""

import subprocess
import sys

import pytest

from arkasr.errors import InputError
from arkasr.vllm.engine import VllmEngine
from arkasr.vllm.requests import require_supported

IMPORTS = "import arkasr.cli, arkasr.run.run, arkasr.vllm.engine, sys; print('vllm' in sys.modules)"


def test_nothing_but_the_plugin_imports_vllm():
    found = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_the_error_without_vllm_names_the_package_to_install(student, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"pip install 'arkasr\[vllm\]'"):
        VllmEngine(student, max_new_tokens=8, dtype="float32", cache_gib=1.0)


def test_an_encoder_with_whisper_s_positions_is_refused_in_one_line(student, student_from_whisper):
    assert require_supported(student) is student
    with pytest.raises(InputError, match=r"^engine vllm: .* \(use_rope: false\); decode without vLLM \(engine: own\)$"):
        require_supported(student_from_whisper)
