"""Ark-ASR: an audio encoder in front of a Qwen2 decoder, as a native Transformers class.

Module names follow the published checkpoints (`audio_encoder.*`, `model.*`, `lm_head.*`). Knows nothing of prompts or
tokens beyond the id of the audio placeholder.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, Qwen2Model, Qwen2PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from arkasr.model.config import ArkAsrConfig
from arkasr.model.encoder import ArkAsrAudioEncoder


class ArkAsrForConditionalGeneration(Qwen2PreTrainedModel, GenerationMixin):
    """An audio-conditioned language model that writes what it hears.

    Sources: arXiv 2605.28139 section 3.1; specification ark-asr-checkpoint, sections 1 to 3.
    """

    config_class = ArkAsrConfig
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    _no_split_modules: ClassVar[list[str]] = ["ArkAsrEncoderLayer", "Qwen2DecoderLayer"]
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    # The published files carry Whisper's learned positions, which the rotary encoder does not use.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        r"audio_encoder\.whisper\.embed_positions\.weight",
        r"audio_encoder\.whisper\.layer_norm\..*",
    ]

    def __init__(self, config: ArkAsrConfig) -> None:
        super().__init__(config)
        self.audio_encoder = ArkAsrAudioEncoder(config)
        self.model = Qwen2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_audio_features(self, audios: Tensor, audios_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embed log-mel frames.

        Args:
            audios: float `[B, mels, T]`.
            audios_mask: `[B, T]`, non-zero where a frame is real; None = all are.

        Returns:
            The real embeddings of all clips in order, `[sum N, H]`, and their number per clip, int64 `[B]`.
        """
        if audios_mask is None:
            audios_mask = torch.ones(audios.shape[0], audios.shape[2], device=audios.device)
        embeddings, counts = self.audio_encoder(audios.to(self.dtype), audios_mask.bool())
        real = torch.arange(embeddings.shape[1], device=counts.device) < counts[:, None]
        return embeddings[real], counts

    def _embed(self, input_ids: Tensor, audios: Tensor | None, audios_mask: Tensor | None) -> Tensor:
        embeddings = self.model.embed_tokens(input_ids)
        if audios is None:
            return embeddings
        audio_embeddings, counts = self.get_audio_features(audios, audios_mask)
        placeholders = input_ids == self.config.audio_token_id
        if not torch.equal(placeholders.sum(1), counts):
            raise ValueError(
                f"the prompts hold {placeholders.sum(1).tolist()} audio tokens, the audio needs {counts.tolist()}"
            )
        return embeddings.masked_scatter(placeholders[..., None], audio_embeddings.to(embeddings.dtype))

    def forward(
        self,
        input_ids: Tensor | None = None,
        audios: Tensor | None = None,
        audios_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Score the next token at every position of `input_ids` `[B, L]`.

        Args:
            input_ids: int64 `[B, L]`; each audio placeholder is replaced by one embedding of `audios`.
            audios: log-mel float `[B, mels, T]`; None once the prompt is in the cache.
            audios_mask: `[B, T]`, non-zero where a frame is real; None = all are.
            attention_mask: `[B, L]`, zero at (left) padding.
            position_ids: int64 `[B, L]`; None = counted from the first real token of each row.
            past_key_values: the cache of earlier positions.
            inputs_embeds: float `[B, L, H]` instead of `input_ids` and `audios`.
            labels: int64 `[B, L]`, -100 where not scored; gives `loss`, the mean over scored tokens.
            use_cache: return the cache.
            logits_to_keep: score only the last so many positions; 0 = all.
            **kwargs: passed to the decoder.

        Raises:
            ValueError: a prompt's number of audio placeholders is not what its audio needs.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs_embeds = self._embed(input_ids, audios, audios_mask)
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        outputs = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep or None, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Hand the audio over with the prompt only; later steps find it in the cache."""
        audios, audios_mask = kwargs.pop("audios", None), kwargs.pop("audios_mask", None)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if kwargs.get("is_first_iteration") or not kwargs.get("use_cache", True):
            inputs["audios"], inputs["audios_mask"] = audios, audios_mask
        return inputs
