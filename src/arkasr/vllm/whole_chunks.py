"""Makes vLLM's Qwen3-ASR encode clips under one second as Transformers does, whatever the batch.

The encoder's convolutions take chunks of one second. Transformers pads every chunk with zeros. vLLM 0.32 pads chunks
only to the longest one in the batch, so that the encoding of a shorter clip depends on the batch.
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
        logger.warning("this vLLM has another audio encoder: its encoding of clips under one second is not changed")
        return
    encoder: Any = qwen3_asr.Qwen3OmniMoeAudioEncoder
    if not hasattr(encoder, "pads_chunks"):
        qwen3_asr.Qwen3OmniMoeAudioEncoder = with_padded_chunks(encoder)


def with_padded_chunks(encoder: Any) -> Any:
    """A subclass of the encoder that pads every chunk. It adds a full chunk of silence to a batch of short clips."""

    class PaddedChunks(encoder):
        pads_chunks = True

        def forward(self, input_features: Tensor, feature_lens: Tensor, aftercnn_lens: Tensor) -> Tensor:
            """Encode concatenated clips `[mels, sum T]` of `feature_lens` frames to `[sum aftercnn_lens, H]`."""
            frames = 2 * self.n_window
            if int(feature_lens.max()) >= frames:
                return super().forward(input_features, feature_lens, aftercnn_lens)
            silence = input_features.new_zeros(len(input_features), frames)
            length = feature_lens.new_tensor([frames])
            length_after = self._get_cnn_output_lengths(length).to(aftercnn_lens)
            encoded = super().forward(
                torch.cat((input_features, silence), dim=1),
                torch.cat((feature_lens, length)),
                torch.cat((aftercnn_lens, length_after)),
            )
            return encoded[: -int(length_after)]

    return PaddedChunks
