"""One rank of a run with an engine on every rank; test_engine.py starts two of them."""

import torch
from accelerate import Accelerator

from arkasr.model.processor import INSTRUCTION
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.recognizers.decoding import decode
from arkasr.recognizers.tokenizer import train_base_vocabulary
from arkasr.vllm.engine import VllmEngine
from tests.models import TEXTS
from tests.vllm.test_engine import MAX_NEW_TOKENS, SIZES


def main() -> None:
    Accelerator(cpu=True)
    torch.manual_seed(0)
    student = build_ark_asr(SIZES, train_base_vocabulary(TEXTS, 330, [INSTRUCTION]))
    prompts = student.prompts([torch.randn(40, 90), torch.randn(40, 130)], [None, None])
    engine = VllmEngine(student, max_new_tokens=MAX_NEW_TOKENS, dtype="float32", cache_gib=0.1)
    for _ in range(2):
        found = engine(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
        expected = decode(student, prompts, max_new_tokens=MAX_NEW_TOKENS)
        assert [tokens.tolist() for tokens in found.tokens] == [tokens.tolist() for tokens in expected.tokens]
        with torch.no_grad():
            for parameter in student.model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        engine.updated()
    engine.close()


if __name__ == "__main__":
    main()
