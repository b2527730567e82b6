"""vLLM with a recogniser's model, in processes that share this process's accelerator and end with this process.

All work goes through one thread, in order. What is asked of the model is left to others.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from multiprocessing import active_children
from pathlib import Path
from queue import Empty, SimpleQueue
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any, TypeVar

import torch
from accelerate.utils import patch_environment
from safetensors.torch import save_file
from transformers import AutoConfig, Qwen3ASRConfig

from arkasr.errors import InputError, first_line_of
from arkasr.model.frames import HOP_LENGTH, MAX_SAMPLES
from arkasr.recognizers.recognizer import Recognizer
from arkasr.scratch import scratch_folder
from arkasr.vllm.engine_process import engine_environment
from arkasr.vllm.requests import require_supported

LONGEST_CLIP_FRAMES = MAX_SAMPLES // HOP_LENGTH
# Language names in prompts differ in length.
SPARE_PROMPT_TOKENS = 16
MIN_MEMORY_SHARE = 0.01
LIVENESS_CHECK_SECONDS = 1.0
STARTING = Lock()

Result = TypeVar("Result")
Job = tuple[Future[Any], Callable[[], Any]]


class VllmFailedError(RuntimeError):
    """vLLM has ended or refused a job."""


class LocalVllm:
    """A running vLLM.

    Attributes:
        folder: of the model's files; more may be written there.

    Args:
        recognizer: of a family in `arkasr.vllm.requests`.
        max_new_tokens: upper bound of a transcript's tokens.
        dtype: of weights and computation: `float32`, `bfloat16` or `float16`.
        cache_gib: memory for the key-value cache, GiB.

    Raises:
        InputError: vLLM is not installed, cannot run this model, or cannot start with these settings.
    """

    def __init__(self, recognizer: Recognizer, *, max_new_tokens: int, dtype: str, cache_gib: float) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError("engine vllm: vLLM is not installed; pip install 'arkasr[vllm]'") from error
        supported = require_supported(recognizer)
        self._folder = TemporaryDirectory(dir=scratch_folder())
        self.folder = Path(self._folder.name)
        _write_model_files(recognizer, self.folder)
        write_weights(recognizer, self.folder)
        longest_prompt = len(supported.prompt_ids(LONGEST_CLIP_FRAMES, "English")) + SPARE_PROMPT_TOKENS
        try:
            # The environment and the list of children are those of the whole process.
            with STARTING, patch_environment(**engine_environment(self.folder)):
                earlier = active_children()
                self._llm: Any = LLM(
                    self._folder.name,
                    dtype=dtype,
                    max_model_len=longest_prompt + max_new_tokens,
                    kv_cache_memory_bytes=int(cache_gib * 2**30),
                    # vLLM refuses to start unless this share is free. It is small because the trainer uses the
                    # accelerator, too.
                    gpu_memory_utilization=MIN_MEMORY_SHARE,
                    # Compilation saves time on accelerators only.
                    enforce_eager=not torch.cuda.is_available(),
                    # Clips do not repeat, so a cache would have no hits.
                    enable_prefix_caching=False,
                    mm_processor_cache_gb=0,
                    enable_mm_embeds=True,
                    disable_log_stats=True,
                    use_tqdm_on_load=False,
                )
                self._processes = [process for process in active_children() if process not in earlier]
        except (RuntimeError, ValueError) as error:
            self._folder.cleanup()
            raise InputError(
                f"engine vllm does not start: {first_line_of(error)}; see vLLM's messages above: "
                "cache_gib must be enough for a clip of 30 s, and this much memory must be free"
            ) from error
        # vLLM has registered its own config class, with which Transformers' model class does not work.
        AutoConfig.register(Qwen3ASRConfig.model_type, Qwen3ASRConfig, exist_ok=True)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # A daemon thread: vLLM's client never returns after its engine process is killed.
        self._worker = Thread(target=_run_jobs, args=(self._jobs,), name="vllm", daemon=True)
        self._worker.start()

    def submit(self, work: Callable[[Any], Result]) -> Callable[[], Result]:
        """Queue work with the `vllm.LLM`; the returned function waits for its result.

        Raises:
            VllmFailedError: from the returned function.
        """
        pending: Future[Result] = Future()
        self._jobs.put((pending, lambda: work(self._llm)))
        return lambda: self._result(pending)

    def _result(self, pending: "Future[Result]") -> Result:
        while not wait([pending], LIVENESS_CHECK_SECONDS).done and self._is_alive():
            pass
        if not pending.done():
            raise VllmFailedError("engine vllm: its process has ended")
        if error := pending.exception():
            raise VllmFailedError(f"engine vllm: {first_line_of(error)}") from error
        return pending.result()

    def _is_alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def close(self) -> None:
        """Wait for the running job, drop the queued ones, and end vLLM's processes."""
        with suppress(Empty):
            while True:
                self._jobs.get_nowait()
        self._jobs.put(None)
        while self._worker.is_alive() and self._is_alive():
            self._worker.join(LIVENESS_CHECK_SECONDS)
        # The folder is removed first: while it exists, vLLM's processes ignore the signals with which vLLM ends them.
        self._folder.cleanup()
        self._llm.llm_engine.engine_core.shutdown()


def write_weights(recognizer: Recognizer, folder: Path) -> None:
    """Write the weights to one file; tied ones are written once. The caller must gather sharded weights first."""
    weights = {name: weight.detach().contiguous() for name, weight in recognizer.model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _run_jobs(jobs: "SimpleQueue[Job | None]") -> None:
    for future, work in iter(jobs.get, None):
        try:
            future.set_result(work())
        except BaseException as error:  # raised where the result is awaited
            future.set_exception(error)


def _write_model_files(recognizer: Recognizer, folder: Path) -> None:
    """Write a `from_pretrained` folder without weights. Transformers' own method writes on rank 0 only."""
    model = recognizer.model
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    recognizer.processor.save_pretrained(folder)
