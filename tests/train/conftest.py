import pytest
import torch

from arkasr.model.processor import INSTRUCTION
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.recognizers.tokenizer import train_base_vocabulary
from tests.models import SMALL_STUDENT, TEXTS


@pytest.fixture
def coarse():
    """A teacher with fewer merges than the student."""
    torch.manual_seed(0)
    return build_ark_asr(SMALL_STUDENT, train_base_vocabulary(TEXTS * 3, 290, [INSTRUCTION]))
