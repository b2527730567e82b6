"""Lets vLLM's Qwen3-ASR encode a short clip as Transformers does, whatever else it encodes at the same time.

The encoder's convolutions see chunks of one second. Transformers fills the last one with zeros; vLLM 0.32 fills chunks
only as far as the longest of those at hand, so that a clip of less than a second sounds different alone and in company.
"""

import logging
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def register() -> None:
    """Entry point `vllm.general_plugins`: called in every process of a vLLM server."""
    from vllm.model_executor.models import qwen3_asr

    if not hasattr(qwen3_asr, "Qwen3OmniMoeAudioEncoder"):
        logger.warning("this vLLM has another audio encoder: clips of less than a second are left to it")
        return
    encoder: Any = qwen3_asr.Qwen3OmniMoeAudioEncoder
    if not hasattr(encoder, "fills_chunks"):
        qwen3_asr.Qwen3OmniMoeAudioEncoder = with_whole_chunks(encoder)


def with_whole_chunks(encoder: Any) -> Any:
    """The encoder class with every chunk filled: a silent one that is whole keeps short clips company."""

    class WholeChunks(encoder):
        fills_chunks = True

        def forward(self, input_features: Tensor, feature_lens: Tensor, aftercnn_lens: Tensor) -> Tensor:
            """Encode clips side by side `[mels, sum T]` of `feature_lens` frames to `[sum aftercnn_lens, H]`."""
            frames = 2 * self.n_window
            if int(feature_lens.max()) >= frames:
                return super().forward(input_features, feature_lens, aftercnn_lens)
            silence = input_features.new_zeros(len(input_features), frames)
            whole = feature_lens.new_tensor([frames])
            after = self._get_cnn_output_lengths(whole).to(aftercnn_lens)
            encoded = super().forward(
                torch.cat((input_features, silence), dim=1),
                torch.cat((feature_lens, whole)),
                torch.cat((aftercnn_lens, after)),
            )
            return encoded[: -int(after)]

    return WholeChunks
