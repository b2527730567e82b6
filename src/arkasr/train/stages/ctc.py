"""Connectionist temporal classification on the audio tokens: the warm start of an untrained audio encoder.

Scores what the decoder will read, one distribution per audio token, against the decoder's own token embeddings and a
blank: audio tokens come to lie near the embeddings of the words they carry, and the decoder starts by copying. The
blank and the biases are thrown away afterwards.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arkasr.data.examples import Example
from arkasr.model.device import at_least_float32
from arkasr.model.recognizer import Recognizer
from arkasr.train.augment import augment_features
from arkasr.train.settings import AugmentationSettings
from arkasr.train.stage import Stage, StageLoss
from arkasr.train.stages.sft import reference_of


class CtcStage(Stage):
    """Negative log-likelihood of the reference under CTC, per reference token."""

    def __init__(self, student: Recognizer, augmentation: AugmentationSettings | None) -> None:
        super().__init__(student)
        self.augmentation = augmentation
        self.blank = student.vocab_size
        self.blank_embedding = nn.Parameter(torch.zeros(1, student.embedding_size, device=student.device))
        self.bias = nn.Parameter(torch.zeros(student.vocab_size + 1, device=student.device))
        student.model.requires_grad_(False)
        for module in [*student.audio_modules, student.model.get_input_embeddings()]:
            module.requires_grad_(True)

    def loss(self, examples: Sequence[Example], seed: int) -> StageLoss:
        """Score the references of a micro-batch; those with fewer audio than text tokens are left out and counted.

        Raises:
            InputError: an utterance has no text.
        """
        device = self.student.device
        features = augment_features(
            [example.features[self.student.listener] for example in examples], self.augmentation, seed
        )
        references = [self.student.transcript_ids(reference_of(example))[:-1] for example in examples]
        with self.clock("student"):
            audio = {name: tensor.to(device) for name, tensor in self.student.pad_features(features).items()}
            embeddings, counts = self.student.audio_embeddings(audio)
            padded = nn.utils.rnn.pad_sequence(list(embeddings.split(counts.tolist())))
            log_probabilities = F.log_softmax(at_least_float32(self._scores(padded)), dim=-1)
            lengths = torch.tensor([len(reference) for reference in references], device=device)
            losses = F.ctc_loss(
                log_probabilities,
                torch.cat(references).to(device),
                counts,
                lengths,
                blank=self.blank,
                reduction="none",
                zero_infinity=True,
            )
        alignable = losses > 0
        loss = StageLoss(losses.sum(), (lengths * alignable).sum())
        loss.metrics.mean("train/too_short_for_ctc", (~alignable).sum(), len(examples))
        return loss

    def _scores(self, embeddings: Tensor) -> Tensor:
        """Unnormalised scores `[N, B, V + 1]` of every token and the blank for audio embeddings `[N, B, H]`."""
        tokens = self.student.model.get_input_embeddings().weight
        return F.linear(embeddings, torch.cat((tokens, self.blank_embedding)), self.bias)
