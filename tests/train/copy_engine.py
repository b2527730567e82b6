"""An engine with the interface of vLLM's: a copy of the student that decodes in a thread."""

import copy
from concurrent.futures import ThreadPoolExecutor

import torch

from arkasr.recognizers.decoding import Transcripts, decode


class CopyEngine:
    """Decodes with the student's weights at the time of the request, as `VllmEngine` does."""

    def __init__(self, student):
        self.copy = copy.deepcopy(student)
        self.copy.model.eval()
        self._student = student
        self._updated = False
        self._executor = ThreadPoolExecutor(1)

    def __call__(self, recognizer, prompts, *, max_new_tokens, drafts=None, sampling=None):
        return self.submit(recognizer, prompts, max_new_tokens=max_new_tokens, sampling=sampling)()

    def submit(self, recognizer, prompts, *, max_new_tokens, sampling=None):
        assert recognizer is self._student
        weights = None
        if self._updated:
            weights = {name: value.detach().clone() for name, value in recognizer.model.named_parameters()}
        self._updated = False
        future = self._executor.submit(self._decode, weights, prompts, max_new_tokens, sampling)
        return lambda: Transcripts(future.result().tokens, future.result().stopped, None, future.result().passes)

    def _decode(self, weights, prompts, max_new_tokens, sampling):
        if weights is not None:
            with torch.no_grad():
                for name, parameter in self.copy.model.named_parameters():
                    parameter.copy_(weights[name])
        return decode(self.copy, prompts, max_new_tokens=max_new_tokens, sampling=sampling)

    def on_weights_changed(self):
        self._updated = True

    def close(self):
        self._executor.shutdown(cancel_futures=True)
