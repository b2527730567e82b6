"""vLLM in place of `ContinuousDecoder`: clips enter and leave its batch at any time.

In: clips. Out: their tokens. Who waits and for how long is left to others.
"""

from collections.abc import Mapping
from typing import Any

import torch

from arkasr.recognizers.continuous import Clip, Written
from arkasr.recognizers.recognizer import Recognizer
from arkasr.vllm.local import LocalVllm, VllmFailedError
from arkasr.vllm.requests import requests_for, sampling_parameters, tokens_to_allow


class VllmDecoder:
    """A batch in vLLM that clips enter and leave.

    Log-probabilities of a family that is masked in sampling (Qwen3-ASR) are normalised over all tokens.

    Args:
        recognizer: prepares features and prompts; its model is not run.
        vllm: runs the recogniser's model, and is closed with the decoder.
    """

    def __init__(self, recognizer: Recognizer, vllm: LocalVllm) -> None:
        self._recognizer, self._vllm = recognizer, vllm
        self._allowed = tokens_to_allow(recognizer)
        self._clips: dict[int, Clip] = {}

    def enter(self, clips: Mapping[int, Clip]) -> dict[int, Written]:
        """Add clips to the batch; their keys differ from those in the batch. None is finished at once.

        Raises:
            InputError: the model does not know a language. No clip enters.
            VllmFailedError: vLLM has failed.
        """
        entering = [self._request(key, clip) for key, clip in clips.items()]

        def add(llm: Any) -> None:
            for request in entering:
                llm.llm_engine.add_request(*request)

        self._vllm.submit(add)()
        self._clips |= clips
        return {}

    def step(self) -> dict[int, Written]:
        """Write more of every clip in the batch.

        Returns:
            Those that are finished now.

        Raises:
            VllmFailedError: vLLM has failed.
        """
        if not self._clips:
            return {}
        results = self._vllm.submit(lambda llm: llm.llm_engine.step())()
        finished = {int(result.request_id): result.outputs[0] for result in results if result.finished}
        return {
            key: self._written(self._clips.pop(key), output) for key, output in finished.items() if key in self._clips
        }

    def drop(self, key: int) -> None:
        """Give up a clip; `step` no longer returns it."""
        del self._clips[key]
        self._vllm.submit(lambda llm: llm.llm_engine.abort_request([str(key)]))

    def close(self) -> None:
        """End vLLM's processes."""
        self._vllm.close()

    def _request(self, key: int, clip: Clip) -> tuple[str, Any, Any]:
        prompts = self._recognizer.prompts([clip.features], [clip.language])
        (request,) = requests_for(self._recognizer, prompts)
        seed = clip.seed if clip.temperature > 0 else None
        parameters = sampling_parameters(
            self._recognizer, self._allowed, clip.max_new_tokens, clip.temperature, seed, scored=clip.scored
        )
        return str(key), request, parameters

    def _written(self, clip: Clip, output: Any) -> Written:
        if output.finish_reason not in ("stop", "length"):
            raise VllmFailedError(f"engine vllm: it aborted a transcript ({output.finish_reason})")
        tokens = list(output.token_ids)
        scores = None
        if clip.scored:
            positions = zip(tokens, output.logprobs, strict=True)
            scores = torch.tensor([position[token].logprob for token, position in positions])
        return Written(torch.tensor(tokens), output.finish_reason == "stop", scores, language=None)
