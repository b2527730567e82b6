"""What a command imports: PyTorch and Transformers take seconds, so only commands that compute with them load them."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers")


def imported_by(code, *arguments):
    """Which of the heavy libraries a Python program has imported at its end."""
    program = f"{code}\nimport sys; print('imported:', *(name for name in {HEAVY} if name in sys.modules))"
    finished = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return finished.stdout.rsplit("imported:", 1)[1].split()


RUN = """
import sys, arkasr_command
try:
    arkasr_command.main()
except SystemExit:
    pass
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("transcribe", "--help"),
        ("data", "check", "/not/there.jsonl"),
        ("compare", "/not/there.jsonl", "/not/here.jsonl"),
        ("transcribe", "/not/there.wav", "--model", "m"),
        ("transcrib",),
    ],
    ids=" ".join,
)
def test_a_command_that_needs_no_model_imports_no_library_for_models(arguments):
    assert imported_by(RUN, *arguments) == []


def test_the_package_registers_ark_asr_in_other_programs():
    code = """
import arkasr
from transformers import AutoModelForSpeechSeq2Seq
assert arkasr.ArkAsrConfig in AutoModelForSpeechSeq2Seq._model_mapping
assert arkasr.Transcriber
"""
    assert imported_by(code) == list(HEAVY)


def test_the_command_knows_its_version():
    finished = subprocess.run([sys.executable, "-m", "arkasr", "--version"], capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("arkasr 0.")
