"""Transcripts by vLLM in place of `arkasr.model.decoding.decode`: the same words, from processes of their own.

In: a recogniser of either family and prompts with their features. Out: what the recogniser writes, less the states that
it was written from. The engine's weights follow the recogniser's. Knows nothing of losses or steps.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, Qwen3ASRConfig

from arkasr.errors import InputError, first_line_of
from arkasr.model.decoding import Sampling, Transcripts
from arkasr.model.frames import HOP_LENGTH, MAX_SAMPLES
from arkasr.model.recognizer import Prompts, Recognizer
from arkasr.serve.vllm_questions import family_of, questions

LONGEST_CLIP_FRAMES = MAX_SAMPLES // HOP_LENGTH
SEEDS = 2**31
# Forced languages have names of different lengths.
SPARE_PROMPT_TOKENS = 16
LEAST_SHARE = 0.01


class VllmEngine:
    """A model in vLLM that writes what `decode` writes; near ties may fall the other way.

    Args:
        recognizer: Ark-ASR or Qwen3-ASR; whose transcripts are written.
        max_new_tokens: the highest cap that will be asked for.
        dtype: of weights and computation, `float32`, `bfloat16` or `float16`.
        cache_gib: memory for keys and values, GiB.
        staleness: how many updates the engine's weights may be behind the recogniser's.

    Raises:
        InputError: vLLM is not installed, or cannot start with these settings.
    """

    def __init__(
        self, recognizer: Recognizer, *, max_new_tokens: int, dtype: str, cache_gib: float, staleness: int = 0
    ) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError("engine vllm: vLLM is not installed; pip install 'arkasr[vllm]'") from error
        self.recognizer = recognizer
        self.staleness = staleness
        self.pushes = 0
        self._behind = 0
        self._folder = TemporaryDirectory(prefix="arkasr-vllm-")
        _write_but_weights(recognizer, Path(self._folder.name))
        _write_weights(recognizer, Path(self._folder.name))
        longest_prompt = len(recognizer.prompt_ids(LONGEST_CLIP_FRAMES, "English")) + SPARE_PROMPT_TOKENS
        try:
            self._llm: Any = LLM(
                self._folder.name,
                dtype=dtype,
                max_model_len=longest_prompt + max_new_tokens,
                kv_cache_memory_bytes=int(cache_gib * 2**30),
                # The share of an accelerator that must be free besides; the trainer is there, too.
                gpu_memory_utilization=LEAST_SHARE,
                # Compiling pays on accelerators only.
                enforce_eager=not torch.cuda.is_available(),
                # A clip comes once an epoch, with other weights: nothing of it is worth keeping.
                enable_prefix_caching=False,
                mm_processor_cache_gb=0,
                enable_mm_embeds=True,
                disable_log_stats=True,
                use_tqdm_on_load=False,
            )
        except (RuntimeError, ValueError) as error:
            self._folder.cleanup()
            raise InputError(
                f"engine vllm does not start: {first_line_of(error)} Look at what vLLM says above; "
                "cache_gib must hold a clip of 30 s, and the machine must have it free"
            ) from error
        # vLLM has put a config class of its own in this one's place, which Transformers' model does not understand.
        AutoConfig.register(Qwen3ASRConfig.model_type, Qwen3ASRConfig, exist_ok=True)

    def __call__(
        self,
        recognizer: Recognizer,
        prompts: Prompts,
        *,
        max_new_tokens: int,
        drafts: Sequence[Sequence[int]] | None = None,
        sampling: Sampling | None = None,
    ) -> Transcripts:
        """As `decode`, without `states`; drafts are not used, and `passes` is the length of the longest transcript.

        What is drawn with `sampling` is distributed as with `decode`, and is not the same.
        """
        from vllm import SamplingParams

        assert recognizer is self.recognizer
        if self._behind > self.staleness:
            self.push()
        stop = recognizer.stop_token_id
        common: dict[str, Any] = {"max_tokens": max_new_tokens, "stop_token_ids": [stop], "detokenize": False}
        if not family_of(recognizer).masks_tokens:
            common["allowed_token_ids"] = recognizer.allowed_tokens.nonzero().squeeze(1).tolist()
        asked = questions(recognizer, prompts)
        if sampling is None:
            parameters = [SamplingParams(temperature=0.0, **common) for _ in asked]
        else:
            seeds = (sampling.uniforms[:, 0] * SEEDS).long().tolist()
            parameters = [SamplingParams(temperature=sampling.temperature, seed=seed, **common) for seed in seeds]
        answers = self._llm.generate(asked, parameters, use_tqdm=False)
        written = [list(answer.outputs[0].token_ids) for answer in answers]
        return Transcripts(
            [torch.tensor(tokens) for tokens in written],
            torch.tensor([tokens[-1] == stop for tokens in written]),
            None,
            max(map(len, written)),
        )

    def push(self) -> None:
        """Take over the recogniser's weights, and forget what was computed with those before."""
        _write_weights(self.recognizer, Path(self._folder.name))
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": self._folder.name})
        self._llm.llm_engine.reset_prefix_cache()
        # The workers have forgotten their embeddings; the scheduler must not count on them.
        self._llm.llm_engine.reset_encoder_cache()
        self.pushes += 1
        self._behind = 0

    def updated(self) -> None:
        self._behind += 1

    def expire(self) -> None:
        self._behind = self.staleness + 1

    def close(self) -> None:
        """End vLLM's processes."""
        self._llm.llm_engine.engine_core.shutdown()
        self._folder.cleanup()


def _write_but_weights(recognizer: Recognizer, folder: Path) -> None:
    """Every file of a `from_pretrained` folder but the weights; Transformers' own way writes in the first rank only."""
    model = recognizer.model
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    recognizer.processor.save_pretrained(folder)


def _write_weights(recognizer: Recognizer, folder: Path) -> None:
    """The weights alone, in one file; what is shared stands there once. Shares must have been gathered."""
    weights = {name: weight.detach().contiguous() for name, weight in recognizer.model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
