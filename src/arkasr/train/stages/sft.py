"""Supervised fine-tuning (SFT): cross-entropy of the reference transcript, including the stop token.

This stage trains teachers, Ark-Base and the control (on the manifest's labels), and TD (on the teacher's labels).
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from arkasr.data.examples import Example
from arkasr.errors import InputError
from arkasr.recognizers.device import to_device
from arkasr.recognizers.precision import at_least_float32
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.scoring import forced_logits
from arkasr.train.augment import augment_features, join_utterances, replace_tokens
from arkasr.train.settings import AugmentationSettings
from arkasr.train.stage import Stage, StageLoss


class SupervisedStage(Stage):
    """Mean negative log-likelihood per transcript token."""

    def __init__(self, student: Recognizer, augmentation: AugmentationSettings | None) -> None:
        super().__init__(student)
        self.augmentation = augmentation

    def loss(self, examples: Sequence[Example], seed: int) -> StageLoss:
        """The cross-entropy of a micro-batch.

        Raises:
            InputError: an utterance has no text.
        """
        joined = join_utterances(examples, self.augmentation, seed, [self.student])
        transcripts = [self.student.transcript_ids(reference_of(example)) for example in joined]
        features = [
            example.heard_by_student(self.student.frontend)
            for example in augment_features(joined, self.augmentation, seed, [self.student])
        ]
        prompts = self.student.prompts(features, [example.utterance.language for example in examples])
        device = self.student.device
        with self.clock("student"):
            inputs = replace_tokens(transcripts, self.augmentation, seed)
            logits = forced_logits(self.student, prompts.to(device), transcripts, inputs)
            targets = to_device(torch.cat(transcripts), device)
            total = F.cross_entropy(at_least_float32(logits), targets, reduction="sum")
        loss = StageLoss(total, torch.full((), len(targets), device=device))
        loss.metrics.mean("train/token_accuracy", (logits.argmax(-1) == targets).sum(), len(targets))
        return loss


def reference_of(example: Example) -> str:
    """The text of a labelled utterance.

    Raises:
        InputError: it has no text.
    """
    if example.utterance.text is None:
        raise InputError(
            f"utterance {example.utterance.id} has no `text`, and a supervised stage needs labels; add labels to the "
            "set, or train on it with a stage of kind opd"
        )
    return example.utterance.text
