"""Log-probabilities of requested prompt tokens from vLLM's first model runner.

vLLM 0.32 supports `prompt_logprob_token_ids` in its second model runner only, which needs Triton. The CPU build has no
Triton. This plugin adds the same request and response to the first runner. Other requests are unchanged.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 1024


def register() -> None:
    """Entry point `vllm.general_plugins`: called in every process of a vLLM server."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    patched = [
        (SamplingParams, "prompt_logprob_token_ids"),
        (ModelRunnerOutput, "prompt_token_id_logprobs_dict"),
        (InputProcessor, "_validate_params"),
        (GPUModelRunner, "_get_prompt_logprobs_dict"),
        (GPUModelRunner, "sample_tokens"),
    ]
    missing = [name for owner, name in patched if name not in {*dir(owner), *getattr(owner, "__annotations__", ())}]
    if missing:
        logger.warning("this vLLM has no %s: its answers to requests for scores are not changed", ", ".join(missing))
    elif not hasattr(GPUModelRunner, "named_scores"):
        _accept_requested_ids(InputProcessor)
        _return_requested_scores(GPUModelRunner)


def _accept_requested_ids(processor: Any) -> None:
    """Let requests with `prompt_logprob_token_ids` pass the check that rejects them for the first runner."""
    validate = processor._validate_params

    def validate_params(self: Any, params: Any, supported_tasks: Any) -> Any:
        if getattr(params, "prompt_logprob_token_ids", None) is None or self.vllm_config.use_v2_model_runner:
            return validate(self, params, supported_tasks)
        # `verify` checks the ids and converts them to an array. The remaining checks run without them.
        params.verify(self.model_config, self.speculative_config, self.structured_outputs_config, self.tokenizer)
        requested = params.prompt_logprob_token_ids, params.prompt_logprob_start
        params.prompt_logprob_token_ids = params.prompt_logprob_start = None
        try:
            return validate(self, params, supported_tasks)
        finally:
            params.prompt_logprob_token_ids, params.prompt_logprob_start = requested

    processor._validate_params = validate_params


def _return_requested_scores(runner: Any) -> None:
    """Make the first runner compute the scores with its prompt log-probabilities, and return them in its output."""
    prompt_scores, sample_tokens = runner._get_prompt_logprobs_dict, runner.sample_tokens
    runner.named_scores = None

    def get_prompt_logprobs_dict(self: Any, hidden_states: Tensor, num_scheduled_tokens: Mapping[str, int]) -> Any:
        self.named_scores = finished_scores(self, hidden_states, num_scheduled_tokens)
        return prompt_scores(self, hidden_states, num_scheduled_tokens)

    def sample(self: Any, *arguments: Any, **options: Any) -> Any:
        self.named_scores = None
        output = sample_tokens(self, *arguments, **options)
        if self.named_scores:
            getattr(output, "_model_runner_output", output).prompt_token_id_logprobs_dict = self.named_scores
        return output

    runner._get_prompt_logprobs_dict = get_prompt_logprobs_dict
    runner.sample_tokens = sample


def finished_scores(runner: Any, hidden_states: Tensor, num_scheduled_tokens: Mapping[str, int]) -> dict[str, Tensor]:
    """Log-probabilities float32 `[rows, ids]` of all requests whose prompt ends in this step; −inf = no id."""
    finished = {}
    for request_id, tokens in num_scheduled_tokens.items():
        request = runner.requests[request_id]
        ids = getattr(request.sampling_params, "prompt_logprob_token_ids", None)
        if ids is None or request.num_computed_tokens >= len(request.prompt_token_ids):
            continue
        first = request.sampling_params.prompt_logprob_start or 0
        begin, end = request.num_computed_tokens, request.num_computed_tokens + tokens
        if begin == 0:
            request.named_scores = torch.full(ids.shape, -torch.inf)
        requested = torch.tensor(ids, dtype=torch.long, device=hidden_states.device)
        offset = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[request_id]]) - begin
        # The prompt has no token after its last one to score.
        last = min(end, len(request.prompt_token_ids) - 1)
        for row in range(max(first, begin), last, ROWS_AT_ONCE):
            until = min(row + ROWS_AT_ONCE, last)
            scores = runner.model.compute_logits(hidden_states[offset + row : offset + until]).float()
            row_ids = requested[row - first : until - first]
            found = scores.gather(1, row_ids.clamp_min(0)) - scores.logsumexp(1, keepdim=True)
            request.named_scores[row - first : until - first] = found.masked_fill(row_ids < 0, -torch.inf).cpu()
        if end >= len(request.prompt_token_ids):
            finished[request_id] = request.named_scores
    return finished
