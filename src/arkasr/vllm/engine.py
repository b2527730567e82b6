"""Transcripts from vLLM, which runs in its own processes, in place of `arkasr.recognizers.decoding.decode`.

In: a recogniser and prompts with log-mel features. Out: its transcripts, without hidden states. The engine reloads the
recogniser's weights when they change. Losses and steps are left to others.
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
from arkasr.vllm.engine_process import engine_environment
from arkasr.vllm.requests import family_of, requests_for, require_supported

LONGEST_CLIP_FRAMES = MAX_SAMPLES // HOP_LENGTH
SEED_RANGE = 2**31
# Language names in prompts differ in length.
SPARE_PROMPT_TOKENS = 16
MIN_MEMORY_SHARE = 0.01
LIVENESS_CHECK_SECONDS = 1.0
REMEDY = "see vLLM's messages above, and continue with --resume"

Job = tuple[Future[list[Any]], Callable[[], list[Any]]]


class VllmEngine:
    """Decodes with vLLM. Greedy transcripts equal those of `decode`, except where two tokens have nearly equal scores.

    vLLM's processes share this process's accelerator and end with this process.

    Args:
        recognizer: of a family in `arkasr.vllm.requests`.
        max_new_tokens: upper bound of `max_new_tokens` in later calls.
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
        self.recognizer = require_supported(recognizer)
        self._updated = False
        self._folder = TemporaryDirectory(dir=scratch_folder())
        _write_model_files(recognizer, Path(self._folder.name))
        _write_weights(recognizer, Path(self._folder.name))
        earlier = active_children()
        longest_prompt = len(self.recognizer.prompt_ids(LONGEST_CLIP_FRAMES, "English")) + SPARE_PROMPT_TOKENS
        try:
            with patch_environment(**engine_environment(Path(self._folder.name))):
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
                    # A clip is decoded once per epoch, each time with new weights, so a cache would have no hits.
                    enable_prefix_caching=False,
                    mm_processor_cache_gb=0,
                    enable_mm_embeds=True,
                    disable_log_stats=True,
                    use_tqdm_on_load=False,
                )
        except (RuntimeError, ValueError) as error:
            self._folder.cleanup()
            raise InputError(
                f"engine vllm does not start: {first_line_of(error)}; see vLLM's messages above: "
                "cache_gib must be enough for a clip of 30 s, and this much memory must be free"
            ) from error
        # vLLM has registered its own config class, with which Transformers' model class does not work.
        AutoConfig.register(Qwen3ASRConfig.model_type, Qwen3ASRConfig, exist_ok=True)
        self._processes = [process for process in active_children() if process not in earlier]
        # Jobs run in order, so each decodes with the weights that were current when it was submitted.
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # A daemon thread: vLLM's client never returns after its engine process is killed.
        self._worker = Thread(target=_run_jobs, args=(self._jobs,), name="vllm", daemon=True)
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
        """Decode like `decode`, without `states`; `drafts` is ignored.

        `passes` is the length of the longest transcript. With `sampling`, the distribution of tokens is that of
        `decode`; the sampled tokens differ.

        Raises:
            InputError: vLLM has failed.
        """
        return self.submit(recognizer, prompts, max_new_tokens=max_new_tokens, sampling=sampling)()

    def submit(
        self, recognizer: Recognizer, prompts: Prompts, *, max_new_tokens: int, sampling: Sampling | None = None
    ) -> Callable[[], Transcripts]:
        """Start a call with the present weights; the returned function waits for the transcripts."""
        from vllm import SamplingParams

        assert recognizer is self.recognizer
        weights = self._weights_folder() if self._updated else None
        self._updated = False
        stop = recognizer.stop_token_id
        common: dict[str, Any] = {"max_tokens": max_new_tokens, "stop_token_ids": [stop], "detokenize": False}
        if not family_of(recognizer).masks_tokens:
            common["allowed_token_ids"] = recognizer.allowed_tokens.nonzero().squeeze(1).tolist()
        requests = requests_for(recognizer, prompts)
        if sampling is None:
            parameters = [SamplingParams(temperature=0.0, **common) for _ in requests]
        else:
            seeds = (sampling.uniforms[:, 0] * SEED_RANGE).long().tolist()
            parameters = [SamplingParams(temperature=sampling.temperature, seed=seed, **common) for seed in seeds]
        pending: Future[list[Any]] = Future()
        self._jobs.put((pending, partial(self._generate, weights, requests, parameters)))
        return partial(self._transcripts, pending)

    def _transcripts(self, pending: Future[list[Any]]) -> Transcripts:
        while not wait([pending], LIVENESS_CHECK_SECONDS).done and self._is_alive():
            pass
        if not pending.done():
            raise InputError(f"engine vllm: its process has ended; {REMEDY}")
        if error := pending.exception():
            raise InputError(f"engine vllm: {first_line_of(error)}; {REMEDY}") from error
        outputs = [result.outputs[0] for result in pending.result()]
        if aborted := {output.finish_reason for output in outputs} - {"stop", "length"}:
            raise InputError(f"engine vllm: it aborted a transcript ({', '.join(map(str, aborted))}); {REMEDY}")
        tokens = [torch.tensor(output.token_ids) for output in outputs]
        stopped = torch.tensor([output.finish_reason == "stop" for output in outputs])
        return Transcripts(tokens, stopped, None, max(map(len, tokens)))

    def _is_alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def _generate(self, weights: Path | None, requests: list[Any], parameters: list[Any]) -> list[Any]:
        if weights is not None:
            self._reload(weights)
        results: list[Any] = self._llm.generate(requests, parameters, use_tqdm=False)
        return results

    def _weights_folder(self) -> Path:
        folder = Path(mkdtemp(dir=self._folder.name))
        _write_weights(self.recognizer, folder)
        return folder

    def _reload(self, weights: Path) -> None:
        """Load new weights into vLLM, and clear its caches."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(weights)})
        self._llm.llm_engine.reset_prefix_cache()
        # The workers' encoder caches are empty now, so the scheduler's record of them must be emptied, too.
        self._llm.llm_engine.reset_encoder_cache()
        shutil.rmtree(weights)

    def on_weights_changed(self) -> None:
        """Use the recogniser's new weights for all later calls."""
        self._updated = True

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


def _run_jobs(jobs: SimpleQueue[Job | None]) -> None:
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


def _write_weights(recognizer: Recognizer, folder: Path) -> None:
    """Write the weights to one file; tied ones are written once. The caller must gather sharded weights first."""
    weights = {name: weight.detach().contiguous() for name, weight in recognizer.model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
