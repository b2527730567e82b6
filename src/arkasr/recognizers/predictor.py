"""The next token after a hidden state: the best allowed one, or a sampled one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from arkasr.recognizers.device import to_device
from arkasr.recognizers.head import TokenMask, greedy_tokens, sampled_tokens
from arkasr.recognizers.recognizer import Recognizer


class Predictor:
    """The next token after each state: the best allowed one, or a sampled one.

    Args:
        recognizer: its output head scores the tokens.
        temperature: of sampling; None = greedy.
    """

    def __init__(self, recognizer: Recognizer, temperature: float | None) -> None:
        self._head = recognizer.head
        self._temperature = temperature
        allowed, allowed_first = recognizer.allowed_tokens, recognizer.allowed_first_tokens
        self._allowed = TokenMask.of(allowed, self._head)
        self._allowed_first = None if allowed_first is allowed else TokenMask.of(allowed_first, self._head)

    def predict(self, states: Tensor, uniforms: Tensor | None, allowed: TokenMask | None = None) -> Tensor:
        """Token ids, int64 `[N]`.

        Args:
            states: `[N, H]`.
            uniforms: float64 `[N]`, as in `Sampling`; None for greedy decoding.
            allowed: the tokens to choose from; None = those of every position but the first.
        """
        if uniforms is None or self._temperature is None:
            return greedy_tokens(states, self._head, allowed or self._allowed)
        uniforms = to_device(uniforms, states.device)
        return sampled_tokens(states, self._head, allowed or self._allowed, self._temperature, uniforms)

    def replace_first(
        self, tokens: Tensor, states: Tensor, proposals: Sequence[Sequence[int]], uniforms: Tensor | None
    ) -> None:
        """Predict the first token of every transcript again, in place, from the tokens that may begin one.

        Args:
            tokens: int64 `[N]`, from the first pass.
            states: `[N, H]`, of the first pass.
            proposals: of each row; N is the sum of `len(proposal) + 1` over the rows.
            uniforms: as for `predict`.
        """
        if self._allowed_first is None:
            return
        lengths = torch.tensor([len(proposal) + 1 for proposal in proposals])
        first_on_host = lengths.cumsum(0) - lengths
        first = to_device(first_on_host, states.device)
        first_uniforms = None if uniforms is None else uniforms[first_on_host]
        tokens[first] = self.predict(states.index_select(0, first), first_uniforms, self._allowed_first)
