"""Audio and conversation in, model inputs out: the log-mel features and the exact Ark-ASR prompt.

The prompt is written down once, in the chat template; training and inference both render it.
"""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from arkasr.data.audio import SAMPLE_RATE
from arkasr.model.frames import audio_tokens, clip_of

AUDIO_TOKEN = "<|audio|>"
STOP_TOKEN = "<|im_end|>"
INSTRUCTION = "Please transcribe this audio."
# Every token of the prompt and of the stop, in the order of the published vocabulary.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    STOP_TOKEN,
    AUDIO_TOKEN,
    "<|user|>",
    "<|begin_of_audio|>",
    "<|end_of_audio|>",
    "<|assistant|>",
    "<|system|>",
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "<|{{ message['role'] }}|>"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'audio' -%}<|begin_of_audio|><|audio|><|end_of_audio|>"
    "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


def transcription_conversation(audio: Any) -> list[dict[str, Any]]:
    """The one user turn that asks for a transcript (specification ark-asr-checkpoint, section 4)."""
    return [{"role": "user", "content": [{"type": "audio", "audio": audio}, {"type": "text", "text": INSTRUCTION}]}]


class ArkAsrProcessor(ProcessorMixin):
    """Whisper's log-mel features and a Qwen2 tokenizer behind the Ark-ASR prompt."""

    text_kwargs: ClassVar[dict[str, Any]] = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    audio_kwargs: ClassVar[dict[str, Any]] = {"sampling_rate": SAMPLE_RATE}

    def __init__(
        self, feature_extractor: Any, tokenizer: Any, chat_template: str | None = None, merge_factor: int = 4
    ) -> None:
        self.audio_token = AUDIO_TOKEN
        self.audio_token_id = tokenizer.convert_tokens_to_ids(AUDIO_TOKEN)
        self.merge_factor = merge_factor
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @property
    def model_input_names(self) -> list[str]:
        """What the model's `forward` takes from this processor."""
        return ["input_ids", "attention_mask", "audios", "audios_mask"]

    def log_mel(self, waveform: np.ndarray) -> Tensor:
        """Log-mel features of one clip, computed as if it were alone.

        Args:
            waveform: float32 `[samples]`, 16 kHz mono, at most 30 s; a clip shorter than one analysis window is padded
                with silence to one.

        Returns:
            float32 `[mels, T]` with T = samples // 160.

        Raises:
            InputError: the clip is longer than 30 s.
        """
        clip = clip_of(waveform)
        features = self.feature_extractor(clip, sampling_rate=SAMPLE_RATE, padding="longest", return_tensors="pt")
        return features["input_features"][0]

    def pad_features(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Batch clips of log-mel features `[mels, T]` for the model.

        Returns:
            `audios` float32 `[B, mels, T]`, zero at padding, and `audios_mask` int64 `[B, T]`.
        """
        lengths = torch.tensor([clip.shape[1] for clip in features])
        audios = torch.zeros(len(features), features[0].shape[0], int(lengths.max()))
        for row, clip in zip(audios, features, strict=True):
            row[:, : clip.shape[1]] = clip
        return {"audios": audios, "audios_mask": (torch.arange(audios.shape[2]) < lengths[:, None]).long()}

    def _process_audio(self, audio: list[np.ndarray], **_: Any) -> tuple[dict[str, Tensor], list[str]]:
        features = [self.log_mel(clip) for clip in audio]
        placeholders = [AUDIO_TOKEN * audio_tokens(clip.shape[1], self.merge_factor) for clip in features]
        return self.pad_features(features), placeholders

    def transcription_request(self, audio: list[np.ndarray]) -> BatchFeature:
        """Model inputs that ask for a transcript of each clip of 16 kHz mono float32 audio."""
        return self.apply_chat_template(
            [transcription_conversation(clip) for clip in audio],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
