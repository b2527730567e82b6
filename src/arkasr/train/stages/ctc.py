"""Connectionist temporal classification (CTC) on the audio tokens: warm start of an untrained audio encoder.

Each audio token is scored against the decoder's token embeddings and a blank. This moves audio tokens towards the
embeddings of their words, so that the decoder can start by copying. The blank and the biases are discarded afterwards.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arkasr.data.examples import Example
from arkasr.recognizers.decoder_only import DecoderOnlyRecognizer, require_decoder_only
from arkasr.recognizers.device import to_device
from arkasr.recognizers.precision import at_least_float32
from arkasr.recognizers.recognizer import Recognizer
from arkasr.train.augment import augment_features
from arkasr.train.settings import AugmentationSettings
from arkasr.train.stage import Stage, StageLoss
from arkasr.train.stages.sft import reference_of


class CtcStage(Stage):
    """CTC loss: negative log-likelihood of the reference, per reference token."""

    student: DecoderOnlyRecognizer

    def __init__(self, student: Recognizer, augmentation: AugmentationSettings | None) -> None:
        super().__init__(require_decoder_only(student, "a ctc stage"))
        self.augmentation = augmentation
        self.blank = student.vocab_size
        self.blank_embedding = nn.Parameter(torch.zeros(1, student.embedding_size, device=student.device))
        self.bias = nn.Parameter(torch.zeros(student.vocab_size + 1, device=student.device))
        student.model.requires_grad_(False)
        for module in [*student.audio_modules, student.model.get_input_embeddings()]:
            module.requires_grad_(True)

    def loss(self, examples: Sequence[Example], seed: int) -> StageLoss:
        """The CTC loss of a micro-batch, without references that are too long to align with their audio.

        Raises:
            InputError: an utterance has no text.
        """
        device = self.student.device
        features = [
            example.heard_by_student(self.student.frontend)
            for example in augment_features(examples, self.augmentation, seed, [self.student])
        ]
        references = [self.student.transcript_ids(reference_of(example))[:-1] for example in examples]
        # Computed on the host: lengths on the device would make ctc_loss synchronise with it.
        audio_lengths = [self.student.audio_token_count(clip.shape[1]) for clip in features]
        text_lengths = [len(reference) for reference in references]
        with self.clock("student"):
            audio = {name: to_device(tensor, device) for name, tensor in self.student.pad_features(features).items()}
            padded = self.student.padded_audio_embeddings(audio, audio_lengths).transpose(0, 1)
            log_probabilities = F.log_softmax(at_least_float32(self._scores(padded)), dim=-1)
            losses = F.ctc_loss(
                log_probabilities,
                to_device(torch.cat(references), device),
                tuple(audio_lengths),  # type: ignore[arg-type]  # torch's stubs accept only tensors
                tuple(text_lengths),  # type: ignore[arg-type]
                blank=self.blank,
                reduction="none",
                zero_infinity=True,
            )
        alignable = losses > 0
        lengths = to_device(torch.tensor(text_lengths), device)
        loss = StageLoss(losses.sum(), (lengths * alignable).sum())
        loss.metrics.mean("train/too_short_for_ctc", (~alignable).sum(), len(examples))
        return loss

    def _scores(self, embeddings: Tensor) -> Tensor:
        """Unnormalised scores `[N, B, V + 1]` of all tokens and the blank, for audio embeddings `[N, B, H]`."""
        tokens = self.student.model.get_input_embeddings().weight
        if not tokens.requires_grad:
            # One matrix with the blank would get a gradient of the size of the frozen embeddings.
            parts = ((tokens, self.bias[:-1]), (self.blank_embedding, self.bias[-1:]))
            return torch.cat([F.linear(embeddings, weight, bias) for weight, bias in parts], dim=-1)
        return F.linear(embeddings, torch.cat((tokens, self.blank_embedding)), self.bias)
