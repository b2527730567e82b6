"""Ark-ASR's input processing in vLLM.

In: a prompt with one audio placeholder, and a waveform or log-mel features. Out: log-mel features, and a prompt with
one placeholder for each audio token. The prompt is that of training (`arkasr.model.processor`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase
from vllm.config.multimodal import MultiModalDummyOptions
from vllm.inputs import MultiModalDataDict
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import AudioProcessorItems, MultiModalDataItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdate,
)

from arkasr.data.audio import SAMPLE_RATE
from arkasr.model.frames import HOP_LENGTH, MAX_SAMPLES, audio_tokens
from arkasr.model.processor import ArkAsrProcessor, transcription_prompt


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The prompt of every clip, with one placeholder, which vLLM expands to one for each audio token."""
    ids: list[int] = tokenizer.encode(transcription_prompt(tokenizer), add_special_tokens=False)
    return ids


class ArkAsrDataParser(MultiModalDataParser):
    """Accepts log-mel features `[mels, T]` besides the audio formats of vLLM."""

    def _parse_audio_data(self, data: Any) -> Any:
        if isinstance(data, list) and all(isinstance(clip, torch.Tensor) and clip.ndim == 2 for clip in data):
            return AudioProcessorItems(data)
        return super()._parse_audio_data(data)


class ArkAsrProcessingInfo(BaseProcessingInfo):
    """Properties of the family that vLLM reads at start."""

    def get_hf_processor(self, **kwargs: object) -> ArkAsrProcessor:
        return self.ctx.get_hf_processor(ArkAsrProcessor, **kwargs)

    def get_data_parser(self) -> ArkAsrDataParser:
        return ArkAsrDataParser(target_sr=SAMPLE_RATE, target_channels=1)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"audio": 1}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        return {"audio": audio_tokens(MAX_SAMPLES // HOP_LENGTH, self.get_hf_processor().merge_factor)}


class ArkAsrDummyInputs(BaseDummyInputsBuilder[ArkAsrProcessingInfo]):
    """A clip of maximum length, with which vLLM plans its memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return self.info.get_hf_processor().audio_token * mm_counts.get("audio", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, MultiModalDummyOptions]
    ) -> MultiModalDataDict:
        clips = self._get_dummy_audios(
            length=MAX_SAMPLES, num_audios=mm_counts.get("audio", 0), overrides=mm_options.get("audio")
        )
        return {"audio": clips}


class ArkAsrInputs(BaseMultiModalProcessor[ArkAsrProcessingInfo]):
    """Computes features clip by clip, so that cached features do not depend on the batch."""

    def _call_hf_processor(self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        processor = self.info.get_hf_processor()
        clips: Any = hf_data["audio"]
        return BatchFeature({"log_mels": [_log_mel(processor, clip) for clip in clips]})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"log_mels": MultiModalFieldConfig.batched("audio")}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        processor = self.info.get_hf_processor()
        # Empty if vLLM has the clip's features and placeholders in its cache.
        clips: Any = out_mm_kwargs.get_data().get("log_mels")

        def placeholders(clip: int) -> list[int]:
            return [processor.audio_token_id] * audio_tokens(clips[clip].shape[1], processor.merge_factor)

        return [PromptReplacement("audio", target=[processor.audio_token_id], replacement=placeholders)]


def _log_mel(processor: ArkAsrProcessor, clip: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(clip, torch.Tensor) and clip.ndim == 2:
        return clip
    return processor.log_mel(np.asarray(clip))
