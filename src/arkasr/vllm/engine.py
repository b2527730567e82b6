"""Transcripts by vLLM in place of `arkasr.recognizers.decoding.decode`: the same words, from processes of their own.

In: a recogniser of either family and prompts with their features. Out: what the recogniser writes, less the states that
it was written from. The engine's weights follow the recogniser's. Knows nothing of losses or steps.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory, mkdtemp
from threading import Thread
from typing import Any

import torch
from accelerate.utils import patch_environment
from safetensors.torch import save_file
from transformers import AutoConfig, Qwen3ASRConfig

from arkasr.errors import InputError, first_line_of
from arkasr.model.frames import HOP_LENGTH, MAX_SAMPLES
from arkasr.recognizers.decoding import Sampling, Transcripts
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.scratch import scratch_folder
from arkasr.vllm.engine_process import environment
from arkasr.vllm.questions import family_of, questions

LONGEST_CLIP_FRAMES = MAX_SAMPLES // HOP_LENGTH
SEEDS = 2**31
# Forced languages have names of different lengths.
SPARE_PROMPT_TOKENS = 16
LEAST_SHARE = 0.01
LOOK_AFTER_SECONDS = 1.0
REMEDY = "look at what vLLM says above, and continue with --resume"

Job = tuple[Future[list[Any]], Callable[[], list[Any]]]


class VllmEngine:
    """A model in vLLM that writes what `decode` writes; near ties may fall the other way.

    vLLM's process lives on this process's accelerator, and as long as it does.

    Args:
        recognizer: Ark-ASR or Qwen3-ASR; whose transcripts are written.
        max_new_tokens: the highest cap that will be asked for.
        dtype: of weights and computation, `float32`, `bfloat16` or `float16`.
        cache_gib: memory for keys and values, GiB.

    Raises:
        InputError: vLLM is not installed, or cannot start with these settings.
    """

    def __init__(self, recognizer: Recognizer, *, max_new_tokens: int, dtype: str, cache_gib: float) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError("engine vllm: vLLM is not installed; pip install 'arkasr[vllm]'") from error
        self.recognizer = recognizer
        self._updated = False
        self._folder = TemporaryDirectory(dir=scratch_folder())
        _write_but_weights(recognizer, Path(self._folder.name))
        _write_weights(recognizer, Path(self._folder.name))
        others = active_children()
        longest_prompt = len(recognizer.prompt_ids(LONGEST_CLIP_FRAMES, "English")) + SPARE_PROMPT_TOKENS
        try:
            with patch_environment(**environment(Path(self._folder.name))):
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
        self._processes = [process for process in active_children() if process not in others]
        # One thing after the other: weights that come later do not reach transcripts that were asked for before.
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # A daemon, since vLLM's client waits for ever for a process that has been killed.
        self._worker = Thread(target=_work_off, args=(self._jobs,), name="vllm", daemon=True)
        self._worker.start()

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

        Raises:
            InputError: vLLM has failed.
        """
        return self.submit(recognizer, prompts, max_new_tokens=max_new_tokens, sampling=sampling)()

    def submit(
        self, recognizer: Recognizer, prompts: Prompts, *, max_new_tokens: int, sampling: Sampling | None = None
    ) -> Callable[[], Transcripts]:
        """As a call, with the weights of now, while this process does something else."""
        from vllm import SamplingParams

        assert recognizer is self.recognizer
        weights = self._written_weights() if self._updated else None
        self._updated = False
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
        answers: Future[list[Any]] = Future()
        self._jobs.put((answers, partial(self._write, weights, asked, parameters)))
        return partial(self._transcripts, answers)

    def _transcripts(self, answers: Future[list[Any]]) -> Transcripts:
        while not wait([answers], LOOK_AFTER_SECONDS).done and self._lives():
            pass
        if not answers.done():
            raise InputError(f"engine vllm: its process has ended; {REMEDY}")
        if error := answers.exception():
            raise InputError(f"engine vllm: {first_line_of(error)}; {REMEDY}") from error
        outputs = [answer.outputs[0] for answer in answers.result()]
        if given_up := {output.finish_reason for output in outputs} - {"stop", "length"}:
            raise InputError(f"engine vllm: it gave up a transcript ({', '.join(map(str, given_up))}); {REMEDY}")
        written = [torch.tensor(output.token_ids) for output in outputs]
        stopped = torch.tensor([output.finish_reason == "stop" for output in outputs])
        return Transcripts(written, stopped, None, max(map(len, written)))

    def _lives(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def _write(self, weights: Path | None, asked: list[Any], parameters: list[Any]) -> list[Any]:
        if weights is not None:
            self._take_over(weights)
        answers: list[Any] = self._llm.generate(asked, parameters, use_tqdm=False)
        return answers

    def _written_weights(self) -> Path:
        folder = Path(mkdtemp(dir=self._folder.name))
        _write_weights(self.recognizer, folder)
        return folder

    def _take_over(self, weights: Path) -> None:
        """Let vLLM read weights, and forget what it computed with those before."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(weights)})
        self._llm.llm_engine.reset_prefix_cache()
        # The workers have forgotten their embeddings; the scheduler must not count on them.
        self._llm.llm_engine.reset_encoder_cache()
        shutil.rmtree(weights)

    def on_weights_changed(self) -> None:
        """Use the recogniser's new weights for all later calls."""
        self._updated = True

    def close(self) -> None:
        """End vLLM's processes, once what they are writing is written; what waits behind it is not begun."""
        with suppress(Empty):
            while True:
                self._jobs.get_nowait()
        self._jobs.put(None)
        while self._worker.is_alive() and self._lives():
            self._worker.join(LOOK_AFTER_SECONDS)
        # Before that its processes take no notice of signals, and so of vLLM either.
        self._folder.cleanup()
        self._llm.llm_engine.engine_core.shutdown()


def _work_off(jobs: SimpleQueue[Job | None]) -> None:
    for future, work in iter(jobs.get, None):
        try:
            future.set_result(work())
        except BaseException as error:  # whoever waits is to have it
            future.set_exception(error)


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
