"""Ark-ASR: an audio encoder in front of a Qwen2 decoder, as a native Transformers class.

Module names follow the published checkpoints (`audio_encoder.*`, `model.*`, `lm_head.*`). The model knows the
id of the audio placeholder; the prompt for `generate` comes from the generation config.
"""

import os
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, GenerationConfig, GenerationMixin, Qwen2Model, Qwen2PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from arkasr.model.checkpoint_integrity import refuse_incomplete
from arkasr.model.config import ArkAsrConfig
from arkasr.model.encoder import ArkAsrAudioEncoder
from arkasr.model.frames import audio_tokens
from arkasr.model.generation import transcription_config
from arkasr.model.placeholders import check_counts, fill

# Arguments of `from_pretrained` that locate files; the tokenizer is loaded with those of the weights.
SOURCE_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


class ArkAsrForConditionalGeneration(Qwen2PreTrainedModel, GenerationMixin):
    """An audio-conditioned language model that writes transcripts.

    Sources: arXiv 2605.28139 section 3.1; the published checkpoints of AutoArk-AI.
    """

    config_class = ArkAsrConfig
    generation_config: GenerationConfig
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")
    _no_split_modules: ClassVar[list[str]] = ["ArkAsrEncoderLayer", "Qwen2DecoderLayer"]
    _tied_weights_keys: ClassVar[dict[str, str]] = {"lm_head.weight": "model.embed_tokens.weight"}
    # The published files carry Whisper's positions, which the rotary encoder does not use.
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

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Self | tuple[Self, dict[str, Any]]:
        """Load weights as every Transformers model does, and refuse an incomplete checkpoint.

        The published checkpoints have no `suppress_tokens` in their generation config. Such a checkpoint gets its
        generation config from its tokenizer.

        Raises:
            InputError: a weight is missing or has another shape than in the config; names the first.
        """
        return_info = kwargs.pop("output_loading_info", False)
        if kwargs.get("state_dict") is None:
            kwargs.setdefault("use_safetensors", True)
        kwargs.setdefault("ignore_mismatched_sizes", True)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        refuse_incomplete(pretrained_model_name_or_path or "from a state dict", info)
        if model.generation_config.suppress_tokens is None and pretrained_model_name_or_path is not None:
            source = {name: kwargs[name] for name in SOURCE_ARGUMENTS if name in kwargs}
            model._set_generation_config(pretrained_model_name_or_path, source)
        return (model, info) if return_info else model

    def _set_generation_config(self, name: str | os.PathLike, source: dict[str, Any]) -> None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **source)
        except (OSError, ValueError):  # a folder may have weights only
            return
        self.generation_config = transcription_config(self.generation_config, tokenizer, self.config.vocab_size)

    def get_audio_features(self, audios: Tensor, audios_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embed log-mel frames.

        Args:
            audios: float `[B, mels, T]`.
            audios_mask: `[B, T]`, non-zero where a frame is valid; None = everywhere.

        Returns:
            The valid embeddings of all clips in order, `[sum N, H]`, and their number per clip, int64 `[B]`.
        """
        if audios_mask is None:
            audios_mask = torch.ones(audios.shape[0], audios.shape[2], device=audios.device)
        embeddings, counts = self.audio_encoder(audios.to(self.dtype), audios_mask.bool())
        valid = torch.arange(embeddings.shape[1], device=counts.device) < counts[:, None]
        return embeddings[valid], counts

    def _embed(self, input_ids: Tensor, audios: Tensor | None, audios_mask: Tensor | None) -> Tensor:
        embeddings = self.model.embed_tokens(input_ids)
        if audios is None:
            return embeddings
        audio_embeddings, counts = self.get_audio_features(audios, audios_mask)
        placeholders = input_ids == self.config.audio_token_id
        check_counts(placeholders, counts)
        return fill(embeddings, placeholders, audio_embeddings)

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
            audios_mask: `[B, T]`, non-zero where a frame is valid; None = everywhere.
            attention_mask: `[B, L]`, zero at (left) padding.
            position_ids: int64 `[B, L]`; None = counted from the first valid token of each row.
            past_key_values: the cache of earlier positions.
            inputs_embeds: float `[B, L, H]` instead of `input_ids` and `audios`.
            labels: int64 `[B, L]`, -100 where not scored; gives `loss`, the mean over scored tokens.
            use_cache: return the cache.
            logits_to_keep: number of last positions to score; 0 = all.
            **kwargs: passed to the decoder.

        Raises:
            ValueError: a prompt's number of audio placeholders differs from its number of audio embeddings.
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

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate as every Transformers model does, or transcribe log-mel features given in place of `input_ids`.

        The speech recognition pipeline passes features, float `[B, mels, T]`, with their frame mask `[B, T]`. They
        get the published prompt, and the result is the transcript without the prompt.

        Raises:
            ValueError: features were given, and the generation config has no prompt.
        """
        ids_or_features = inputs if inputs is not None else input_ids
        if ids_or_features is None or not ids_or_features.is_floating_point():
            return super().generate(
                ids_or_features, generation_config=generation_config, attention_mask=attention_mask, **kwargs
            )
        prompts, mask = self._prompts_for(ids_or_features, attention_mask)
        written = super().generate(
            prompts,
            generation_config=generation_config,
            attention_mask=(prompts != self.generation_config.pad_token_id).long(),
            audios=ids_or_features,
            audios_mask=mask,
            **kwargs,
        )
        if isinstance(written, Tensor):
            return written[:, prompts.shape[1] :]
        written.sequences = written.sequences[:, prompts.shape[1] :]
        return written

    def _prompts_for(self, audios: Tensor, frame_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Published prompts for log-mel features, int64 `[B, P]` padded on the left, and the frame mask `[B, T]`."""
        before = getattr(self.generation_config, "prompt_before_audio", None)
        if before is None:
            raise ValueError(
                "the generation config does not hold the prompt; load the model from a folder with its tokenizer"
            )
        after = self.generation_config.prompt_after_audio
        indices = torch.arange(audios.shape[2], device=audios.device)
        frames = torch.full_like(audios[:, 0, 0], len(indices)).long() if frame_mask is None else frame_mask.sum(1)
        # Whisper's extractor counts the last, partly padded frame of a padded clip; Ark-ASR does not.
        frames = torch.where(frames < len(indices), (frames - 1).clamp(min=1), frames)
        mask = (indices < frames[:, None]).long()
        rows = [
            [*before, *[self.config.audio_token_id] * audio_tokens(count, self.config.merge_factor), *after]
            for count in frames.tolist()
        ]
        width = max(map(len, rows))
        padded = [[self.generation_config.pad_token_id] * (width - len(row)) + row for row in rows]
        return torch.tensor(padded, device=audios.device), mask

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Pass the audio with the prompt only; later steps have it in the cache."""
        audios, audios_mask = kwargs.pop("audios", None), kwargs.pop("audios_mask", None)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        if kwargs.get("is_first_iteration") or not kwargs.get("use_cache", True):
            inputs["audios"], inputs["audios_mask"] = audios, audios_mask
        return inputs
