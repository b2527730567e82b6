"""Ark-ASR in vLLM: this package's audio encoder and vLLM's Qwen2 decoder.

The encoder is the module that is trained, so there is no second implementation. Tokens that no transcript may hold are
masked in `compute_logits`, and therefore in every use of vLLM, including `vllm serve`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig
from vllm.config import ModelConfig, SpeechToTextConfig, VllmConfig
from vllm.config.speech_to_text import SpeechToTextParams
from vllm.inputs import PromptType, TokensPrompt
from vllm.model_executor.models.interfaces import (
    MultiModalEmbeddings,
    SupportsMultiModal,
    SupportsTranscription,
)
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.tokenizers import cached_tokenizer_from_config

from arkasr.data.audio import LONGEST_CLIP_SECONDS, SAMPLE_RATE
from arkasr.data.languages import STUDENT_LANGUAGES
from arkasr.model.encoder import ArkAsrAudioEncoder
from arkasr.model.generation import transcription_config
from arkasr.model.processor import transcription_prompt
from arkasr.recognizers.text import clean_transcript
from arkasr.vllm.inputs import ArkAsrDummyInputs, ArkAsrInputs, ArkAsrProcessingInfo, prompt_token_ids
from arkasr.vllm.requests import ABSOLUTE_POSITIONS


@MULTIMODAL_REGISTRY.register_processor(ArkAsrInputs, info=ArkAsrProcessingInfo, dummy_inputs=ArkAsrDummyInputs)
class VllmArkAsr(nn.Module, SupportsMultiModal, SupportsTranscription):
    """vLLM's model class. It loads checkpoints of both layouts, plain Transformers and published."""

    supported_languages: ClassVar[Mapping[str, str]] = STUDENT_LANGUAGES
    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            # The published files hold Whisper's positions, which the rotary encoder does not use.
            "audio_encoder.whisper.embed_positions.": None,
            "audio_encoder.whisper.layer_norm.": None,
            "model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
        }
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        if not config.use_rope:
            raise ValueError(ABSOLUTE_POSITIONS)
        config._attn_implementation = "sdpa"
        with self._mark_tower_model(vllm_config, "audio"):  # type: ignore[operator]
            self.audio_encoder = ArkAsrAudioEncoder(config)
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.language_model = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=["Qwen2ForCausalLM"],
            )
        if config.tie_word_embeddings:
            # On CPUs vLLM computes with packed copies of the weights. A reload packs only the module that the weights
            # are loaded into, so a separate head with tied weights would keep its old copy.
            self.language_model.lm_head = self.language_model.model.embed_tokens
        tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
        blocked = transcription_config(GenerationConfig(), tokenizer, config.vocab_size).suppress_tokens
        self.register_buffer("blocked_tokens", torch.tensor(blocked), persistent=False)

    def get_mm_mapping(self) -> MultiModelKeys:
        return MultiModelKeys.from_string_field(language_model="language_model", tower_model="audio_encoder")

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """Embeddings `[N, H]` of every clip of `log_mels`: `[B, mels, T]`, or B tensors `[mels, T]`."""
        clips: Any = kwargs["log_mels"]
        weight = self.audio_encoder.whisper.conv1.weight
        frames = [clip.T.to(weight) for clip in clips]
        lengths = torch.tensor([len(clip) for clip in frames], device=weight.device)
        mel = pad_sequence(frames, batch_first=True).transpose(1, 2)
        mel_mask = torch.arange(mel.shape[2], device=weight.device) < lengths[:, None]
        embeddings, counts = self.audio_encoder(mel, mel_mask)
        return tuple(clip[:count] for clip, count in zip(embeddings, counts.tolist(), strict=True))

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        """Hidden states `[L, H]` of the tokens of all sequences, concatenated."""
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits `[L, V]`; None on ranks that hold no part of the result."""
        logits = self.language_model.compute_logits(hidden_states)
        return None if logits is None else logits.index_fill_(1, self.blocked_tokens, -torch.inf)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        if modality != "audio":
            raise ValueError(f"Ark-ASR takes audio, not {modality}")
        return "<|begin_of_audio|><|audio|><|end_of_audio|>"

    @classmethod
    def get_speech_to_text_config(cls, model_config: ModelConfig, task_type: str) -> SpeechToTextConfig:
        return SpeechToTextConfig(sample_rate=SAMPLE_RATE, max_audio_clip_s=int(LONGEST_CLIP_SECONDS))

    @classmethod
    def get_generation_prompt(cls, stt_params: SpeechToTextParams) -> PromptType:
        if stt_params.task_type != "transcribe":
            raise ValueError(f"Ark-ASR transcribes and does not {stt_params.task_type}")
        tokenizer = cached_tokenizer_from_config(stt_params.model_config)
        return TokensPrompt(
            prompt=transcription_prompt(tokenizer),
            prompt_token_ids=prompt_token_ids(tokenizer),
            multi_modal_data={"audio": stt_params.audio},
        )

    @classmethod
    def post_process_output(cls, text: str) -> str:
        return clean_transcript(text)
