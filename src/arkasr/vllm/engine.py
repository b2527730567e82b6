"""Transcripts from vLLM, which runs in its own processes, in place of `arkasr.recognizers.decoding.decode`.

In: a recogniser and prompts with log-mel features. Out: its transcripts, without hidden states. The engine reloads the
recogniser's weights when they change. Losses and steps are left to others.
"""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from arkasr.errors import InputError
from arkasr.recognizers.decoding import Sampling, Transcripts
from arkasr.recognizers.recognizer import Prompts, Recognizer
from arkasr.vllm.local import LocalVllm, VllmFailedError, write_weights
from arkasr.vllm.requests import requests_for, sampling_parameters, tokens_to_allow

SEED_RANGE = 2**31
REMEDY = "see vLLM's messages above, and continue with --resume"


class VllmEngine:
    """Decodes with vLLM. Greedy transcripts equal those of `decode`, except where two tokens have nearly equal scores.

    Args:
        recognizer: of a family in `arkasr.vllm.requests`.
        max_new_tokens: upper bound of `max_new_tokens` in later calls.
        dtype: of weights and computation: `float32`, `bfloat16` or `float16`.
        cache_gib: memory for the key-value cache, GiB.

    Raises:
        InputError: vLLM is not installed, cannot run this model, or cannot start with these settings.
    """

    def __init__(self, recognizer: Recognizer, *, max_new_tokens: int, dtype: str, cache_gib: float) -> None:
        self.recognizer = recognizer
        self._updated = False
        self._vllm = LocalVllm(recognizer, max_new_tokens=max_new_tokens, dtype=dtype, cache_gib=cache_gib)

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
        assert recognizer is self.recognizer
        weights = self._weights_folder() if self._updated else None
        self._updated = False
        requests = requests_for(recognizer, prompts)
        if sampling is None:
            seeds, temperature = [None] * len(requests), 0.0
        else:
            seeds = (sampling.uniforms[:, 0] * SEED_RANGE).long().tolist()
            temperature = sampling.temperature
        allowed = tokens_to_allow(recognizer)
        parameters = [sampling_parameters(recognizer, allowed, max_new_tokens, temperature, seed) for seed in seeds]
        # Jobs run in order, so each decodes with the weights that were current when it was submitted.
        pending = self._vllm.submit(
            partial(_generate, folder=weights, requests=requests, parameters=parameters),
        )
        return partial(_transcripts, pending)

    def _weights_folder(self) -> Path:
        folder = Path(mkdtemp(dir=self._vllm.folder))
        write_weights(self.recognizer, folder)
        return folder

    def on_weights_changed(self) -> None:
        """Use the recogniser's new weights for all later calls."""
        self._updated = True

    def close(self) -> None:
        """Wait for the running call, drop the queued ones, and end vLLM's processes."""
        self._vllm.close()


def _generate(llm: Any, *, folder: Path | None, requests: list[Any], parameters: list[Any]) -> list[Any]:
    if folder is not None:
        _reload(llm, folder)
    results: list[Any] = llm.generate(requests, parameters, use_tqdm=False)
    return results


def _reload(llm: Any, folder: Path) -> None:
    """Load new weights into vLLM, and clear its caches."""
    llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
    llm.llm_engine.reset_prefix_cache()
    # The workers' encoder caches are empty now, so the scheduler's record of them must be emptied, too.
    llm.llm_engine.reset_encoder_cache()
    shutil.rmtree(folder)


def _transcripts(pending: Callable[[], list[Any]]) -> Transcripts:
    try:
        outputs = [result.outputs[0] for result in pending()]
    except VllmFailedError as error:
        raise InputError(f"{error}; {REMEDY}") from error
    if aborted := {output.finish_reason for output in outputs} - {"stop", "length"}:
        raise InputError(f"engine vllm: it aborted a transcript ({', '.join(map(str, aborted))}); {REMEDY}")
    tokens = [torch.tensor(output.token_ids) for output in outputs]
    stopped = torch.tensor([output.finish_reason == "stop" for output in outputs])
    return Transcripts(tokens, stopped, None, max(map(len, tokens)))
