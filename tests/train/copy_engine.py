"""An engine beside the trainer as vLLM is one, with the student's own decoding: a copy that writes in a thread."""

import copy
from concurrent.futures import ThreadPoolExecutor

import torch

from arkasr.recognizers.decoding import Transcripts, decode


class CopyEngine:
    """Follows a student's weights as `VllmEngine` does: those of the moment of asking, whatever happens later."""

    def __init__(self, student):
        self.copy = copy.deepcopy(student)
        self.copy.model.eval()
        self._student = student
        self._updated = False
        self._work = ThreadPoolExecutor(1)

    def __call__(self, recognizer, prompts, *, max_new_tokens, drafts=None, sampling=None):
        return self.submit(recognizer, prompts, max_new_tokens=max_new_tokens, sampling=sampling)()

    def submit(self, recognizer, prompts, *, max_new_tokens, sampling=None):
        assert recognizer is self._student
        weights = None
        if self._updated:
            weights = {name: value.detach().clone() for name, value in recognizer.model.named_parameters()}
        self._updated = False
        written = self._work.submit(self._write, weights, prompts, max_new_tokens, sampling)
        return lambda: Transcripts(written.result().tokens, written.result().stopped, None, written.result().passes)

    def _write(self, weights, prompts, max_new_tokens, sampling):
        if weights is not None:
            with torch.no_grad():
                for name, parameter in self.copy.model.named_parameters():
                    parameter.copy_(weights[name])
        return decode(self.copy, prompts, max_new_tokens=max_new_tokens, sampling=sampling)

    def on_weights_changed(self):
        self._updated = True

    def close(self):
        self._work.shutdown(cancel_futures=True)
