"""Audio and conversation in, model inputs out: log-mel features and the exact Ark-ASR prompt.

The prompt is defined once, by the chat template, which both training and inference render.
"""

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE, decode_audio
from arkasr.model.frames import audio_tokens, clip_of

AUDIO_TOKEN = "<|audio|>"
STOP_TOKEN = "<|im_end|>"
INSTRUCTION = "Please transcribe this audio."
# Ark-ASR's special tokens, in the order of their published ids.
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
    """The user turn that requests a transcript, as in the published checkpoints."""
    return [{"role": "user", "content": [{"type": "audio", "audio": audio}, {"type": "text", "text": INSTRUCTION}]}]


def transcription_prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text before the transcript, with a single audio placeholder."""
    return str(
        tokenizer.apply_chat_template(
            transcription_conversation(None), chat_template=CHAT_TEMPLATE, add_generation_prompt=True, tokenize=False
        )
    )


class ArkAsrProcessor(ProcessorMixin):
    """Whisper's log-mel features, a Qwen2 tokenizer and the Ark-ASR prompt.

    Args:
        feature_extractor: Whisper's.
        tokenizer: a Qwen2 tokenizer with Ark-ASR's special tokens.
        chat_template: ignored, because the models were trained on one prompt.
        merge_factor: encoder frames in an audio token.
        audio_token: the placeholder; there is only one.
        audio_dtype: dtype name of `audios`, float32 as published; the model casts to its own.
        leading_blank: whether the model begins a transcript with a blank, as Whisper does. Published models do not.

    Raises:
        ValueError: another placeholder or dtype was given.
    """

    text_kwargs: ClassVar[dict[str, Any]] = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    audio_kwargs: ClassVar[dict[str, Any]] = {"sampling_rate": SAMPLE_RATE}

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        chat_template: str | None = None,
        merge_factor: int = 4,
        audio_token: str = AUDIO_TOKEN,
        audio_dtype: str = "float32",
        leading_blank: bool = False,
    ) -> None:
        if (audio_token, audio_dtype) != (AUDIO_TOKEN, "float32"):
            raise ValueError(f"audio_token {audio_token!r} and audio_dtype {audio_dtype!r} are not those of Ark-ASR")
        self.audio_token = audio_token
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        self.merge_factor = merge_factor
        self.leading_blank = leading_blank
        super().__init__(feature_extractor, tokenizer, chat_template=CHAT_TEMPLATE)

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a `processor_config.json`; the published one also sets attributes of extractor and tokenizer."""
        fields = dict(processor_dict)
        overrides = [fields.pop(name, None) or {} for name in ("feature_extractor_config", "tokenizer_config")]
        for part, values in zip(args, overrides, strict=True):
            for name, value in values.items():
                if hasattr(part, name):
                    setattr(part, name, value)
        return super().from_args_and_dict(args, fields, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The content of `processor_config.json`; without `leading_blank` if it is false, as published."""
        fields: dict[str, Any] = super().to_dict()
        if not self.leading_blank:
            del fields["leading_blank"]
        return fields

    def apply_chat_template(
        self,
        conversation: list[Any],
        chat_template: str | None = None,
        *,
        tokenize: bool = True,
        return_dict: bool = True,
        sampling_rate: int = SAMPLE_RATE,
        audio_padding: str = "longest",
        audio_max_length: int | None = None,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> Any:
        """Model inputs for one conversation or a list of them, in the form of the published model cards.

        Args:
            conversation: one user message whose parts are one audio and a text, in order. The audio part holds
                `audio` or `array` (float `[samples]`, 16 kHz mono) or `path`, and may hold `begin_time` and
                `end_time` in seconds (-1 = the whole clip).
            chat_template: replaces the published prompt.
            tokenize: False = the prompt as a string; the audio is not read.
            return_dict: False = `input_ids` only.
            sampling_rate: of the arrays, in Hz; only 16,000.
            audio_padding: only "longest"; padding to 30 s would change results.
            audio_max_length: samples after which a clip is cut; None = a clip over 30 s is refused.
            return_tensors: as for every Transformers processor.
            **kwargs: as for every Transformers processor.

        Raises:
            ValueError: an argument has a value that its description does not allow, or a conversation does not have
                exactly one audio part.
            InputError: audio cannot be read or is longer than 30 s.
        """
        if not tokenize:
            return super().apply_chat_template(conversation, chat_template, tokenize=False, **kwargs)
        if sampling_rate != SAMPLE_RATE:
            raise ValueError(f"sampling_rate is {sampling_rate}; Ark-ASR takes {SAMPLE_RATE} Hz; resample the audio")
        if audio_padding not in ("longest", True):
            raise ValueError(f"audio_padding is {audio_padding!r}; only 'longest' gives the published results")
        batched = not isinstance(conversation[0], dict)
        conversations = conversation if batched else [conversation]
        decoded = [_with_waveform(messages, audio_max_length) for messages in conversations]
        text_kwargs = kwargs.pop("text_kwargs", {})
        padding = {name: kwargs.pop(name) for name in ("padding", "padding_side") if name in kwargs}
        return super().apply_chat_template(
            decoded if batched else decoded[0],
            chat_template,
            tokenize=True,
            return_dict=return_dict,
            return_tensors=return_tensors,
            processor_kwargs={"text_kwargs": {"padding": True, "padding_side": "left"} | text_kwargs | padding},
            **kwargs,
        )

    @property
    def model_input_names(self) -> list[str]:
        """The names of the inputs that this processor gives to the model's `forward`."""
        return ["input_ids", "attention_mask", "audios", "audios_mask"]

    def log_mel(self, waveform: np.ndarray) -> Tensor:
        """Log-mel features of one clip, independent of other clips.

        Args:
            waveform: float32 `[samples]`, 16 kHz mono, at most 30 s. A clip shorter than an STFT window is padded with
                silence to the length of a window.

        Returns:
            float32 `[mels, T]` with T = samples // 160, after this padding.

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


def _with_waveform(messages: list[dict[str, Any]], max_samples: int | None) -> list[dict[str, Any]]:
    """The conversation with its audio part decoded and cut."""
    decoded = []
    found = 0
    for message in messages:
        parts = message["content"]
        if not isinstance(parts, str):
            found += sum(part["type"] == "audio" for part in parts)
            parts = [_waveform_part(part, max_samples) if part["type"] == "audio" else part for part in parts]
        decoded.append(message | {"content": parts})
    if found != 1:
        raise ValueError(f"a conversation holds {found} audio parts; Ark-ASR takes exactly one")
    return decoded


def _waveform_part(part: dict[str, Any], max_samples: int | None) -> dict[str, Any]:
    source = next((part[key] for key in ("array", "audio", "path") if part.get(key) is not None), None)
    if source is None:
        raise ValueError("an audio part needs `array`, `audio` or `path`")
    begin, end = (None if part.get(key, -1) in (None, -1) else part[key] for key in ("begin_time", "end_time"))
    if isinstance(source, str | Path):
        if max_samples is not None:
            end = min(math.inf if end is None else end, (begin or 0.0) + max_samples / SAMPLE_RATE)
        waveform = decode_audio(source, begin, end, max_seconds=LONGEST_CLIP_SECONDS, may_end_early=True)
    else:
        last = None if end is None else round(end * SAMPLE_RATE)
        waveform = np.asarray(source, dtype=np.float32)[round((begin or 0.0) * SAMPLE_RATE) : last]
    return {"type": "audio", "audio": waveform[:max_samples]}
