"""OPD on two processes with unequal work. The first process writes the measurements of both to a file."""

import json
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from arkasr import processes
from arkasr.data.batches import DurationBatchSampler
from arkasr.errors import InputError
from arkasr.model.processor import INSTRUCTION
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.recognizers.tokenizer import train_base_vocabulary
from arkasr.train.checkpoint import tensors_to_write
from arkasr.train.distribution import accelerator_for, distribute
from arkasr.train.loop import train
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings, RolloutSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import optimizer_step
from arkasr.train.stream import BatchStream
from tests.models import (
    SMALL_STUDENT,
    TEXTS,
    noise_examples,
    small_student,
    small_teacher,
    small_vocabulary,
    small_whisper,
)
from tests.train.copy_engine import CopyEngine
from tests.train.opd import set_rollouts
from tests.train.runs import kill_at, killed, losses
from tests.train.stream import ExampleList, Stream

DEEP_STUDENT = SMALL_STUDENT | {
    "num_hidden_layers": 6,
    "whisper_config": SMALL_STUDENT["whisper_config"] | {"encoder_layers": 6},
}


class GatherCounter(TorchDispatchMode):
    """Counts all-gather operations."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += "allgather" in operation.name()
        return operation(*args, **(kwargs or {}))


class UnshardedCounter(TorchDispatchMode):
    """Measures the largest number of unsharded weights of a stage at any operation."""

    def __init__(self, stage):
        super().__init__()
        self.parameters = stage.parameters
        self.most = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        unsharded = sum(value.numel() for value in self.parameters() if not isinstance(value, DTensor))
        self.most = max(self.most, unsharded)
        return operation(*args, **(kwargs or {}))


def step(sharding, *, longest=12, silent=False):
    """Metrics of one optimizer step, by rank; where `silent`, the first process's only rollout is empty."""
    vocabulary = small_vocabulary()
    student, teacher = small_student(vocabulary), small_teacher(vocabulary)
    if silent and processes.is_first_rank():
        student.allowed_tokens = torch.arange(student.vocab_size) == student.stop_token_id
    settings = OptimizationSettings(
        steps=1, batch_seconds=10, accumulation=2, learning_rate=1e-3, max_grad_norm=1e9, sharding=sharding
    )
    stage = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=longest))
    accelerator = accelerator_for(stage, settings)
    module, optimizers = distribute(accelerator, stage, settings)
    texts = [None] if silent and processes.is_first_rank() else ["the red book", "two green", "mary met john"]
    examples = noise_examples(student, teacher, texts=texts)
    with GatherCounter() as gathers:
        outcome = optimizer_step(accelerator, stage, module, optimizers, iter([examples]), settings, 1, 0, 1.0)
    return processes.all_gather({"gathers": gathers.count, **outcome.metrics.values()})


def one_step(stage, examples, sharding, *, batch_seconds=10):
    """The outcome of one optimizer step without clipping, one micro-batch on each of two processes."""
    settings = OptimizationSettings(
        steps=1, batch_seconds=batch_seconds, accumulation=2, learning_rate=1e-3, max_grad_norm=1e9, sharding=sharding
    )
    accelerator = accelerator_for(stage, settings)
    module, optimizers = distribute(accelerator, stage, settings)
    return optimizer_step(accelerator, stage, module, optimizers, iter([examples]), settings, 1, 0, 1.0)


SEGMENT_TEXTS = [TEXTS[0], TEXTS[2]]


def segments_stage(texts):
    """A stage whose rollouts are the texts, and their examples. Only the first of SEGMENT_TEXTS has segments."""
    student = small_student(small_vocabulary())
    teacher = small_student(train_base_vocabulary(TEXTS * 3, 290, [INSTRUCTION]))
    stage = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=24, unpaired="segments"))
    set_rollouts(stage, texts)
    return stage, noise_examples(student, seconds=[1.0] * len(texts), texts=texts)


def segments_in_one_process(sharding):
    """Metrics of one optimizer step, by rank, where only the first process has segments."""
    stage, examples = segments_stage([SEGMENT_TEXTS[processes.rank()]])
    outcome = one_step(stage, examples, sharding)
    return processes.all_gather(outcome.metrics.values())


def labels_stage(rank):
    """A stage that learns labels, and the example of a process. Only the first process has a label."""
    vocabulary = small_vocabulary()
    student, teacher = small_student(vocabulary), small_teacher(vocabulary)
    objective = ObjectiveSettings(top_k=8, max_new_tokens=12, rejected_below=0.003, label_weight=0.5)
    examples = noise_examples(student, teacher, seconds=[1.0], texts=[TEXTS[rank]])
    labels = {examples[0].utterance.id: TEXTS[rank]} if rank == 0 else {}
    return DistillationStage(student, teacher, objective, labels), examples


def labels_in_one_process(sharding, *, interrupted=False):
    """Metrics of one optimizer step, by rank, and whether it was interrupted.

    Args:
        sharding: of the stage.
        interrupted: whether the first process gets no scores from its teacher.
    """
    stage, examples = labels_stage(processes.rank())
    if interrupted and processes.is_first_rank():
        stage.teacher.submit = lambda *arguments: lambda stop_requested: None
    outcome = one_step(stage, examples, sharding)
    return processes.all_gather(outcome.metrics.values() | {"interrupted": outcome.interrupted})


def whisper_stage():
    """OPD of a Whisper student, and examples for two processes."""
    vocabulary = small_vocabulary()
    student, teacher = small_whisper(vocabulary), small_teacher(vocabulary)
    stage = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=8))
    return stage, noise_examples(student, teacher)


def whisper_step(sharding):
    """Metrics of one optimizer step of a Whisper student on different utterances, by rank."""
    stage, examples = whisper_stage()
    part = examples[:2] if processes.is_first_rank() else examples[2:]
    outcome = one_step(stage, part, sharding, batch_seconds=90)
    return processes.all_gather(outcome.metrics.values())


def most_unsharded(kind):
    """The largest number of unsharded weights during a step, by rank."""
    vocabulary = small_vocabulary()
    student = build_ark_asr(DEEP_STUDENT, vocabulary)
    stage = SupervisedStage(student, None)
    if kind == "opd":
        objective = ObjectiveSettings(top_k=8, max_new_tokens=4)
        stage = DistillationStage(student, small_teacher(vocabulary), objective)
    settings = OptimizationSettings(steps=1, batch_seconds=10, accumulation=2, learning_rate=1e-3, sharding="full")
    accelerator = accelerator_for(stage, settings)
    module, optimizers = distribute(accelerator, stage, settings)
    with UnshardedCounter(stage) as unsharded:
        examples = noise_examples(*stage.recognizers)
        optimizer_step(accelerator, stage, module, optimizers, iter([examples]), settings, 1, 0, 1.0)
    return processes.all_gather(unsharded.most)


def checkpoint_bytes(sharding):
    """Bytes of every tensor that a process copies for a checkpoint, by rank."""
    student = small_student(small_vocabulary())
    settings = OptimizationSettings(steps=1, batch_seconds=10, accumulation=2, learning_rate=1e-3, sharding=sharding)
    stage = SupervisedStage(student, None)
    accelerator = accelerator_for(stage, settings)
    module, optimizers = distribute(accelerator, stage, settings)
    optimizer_step(accelerator, stage, module, optimizers, iter([noise_examples(student)]), settings, 1, 0, 1.0)
    tensors = tensors_to_write(stage, [optimizer.optimizer for optimizer in optimizers])
    local = {name: value.to_local() if isinstance(value, DTensor) else value for name, value in tensors.items()}
    return processes.all_gather({name: value.nbytes for name, value in local.items()})


def half_paired(folder, least):
    """Train where the teacher can score every token of the first process and none of the second one.

    Returns the completed steps and the error of each process, by rank.
    """
    student, teacher = small_student(small_vocabulary()), small_student(train_base_vocabulary(TEXTS * 3, 256))
    objective = ObjectiveSettings(top_k=8, max_new_tokens=12, min_paired_share=least)
    stage = DistillationStage(student, teacher, objective)
    known = stage.tokens.student_to_teacher >= 0
    student.allowed_tokens &= known if processes.is_first_rank() else ~known
    settings = OptimizationSettings(steps=4, batch_seconds=10, accumulation=2, learning_rate=1e-6)
    completed, error = [], None
    try:
        train(
            stage,
            Stream([noise_examples(student)]),
            settings,
            folder,
            seed=0,
            on_step=lambda step, _: completed.append(step),
        )
    except InputError as caught:
        error = f"{type(caught).__name__}: {caught}"
    return processes.all_gather([completed, error])


def prefetched(sharding, folder, *, killed_at=None):
    """Losses of four steps with rollouts prefetched one step ahead, and the rollouts still pending at the end."""
    vocabulary = small_vocabulary()
    student, teacher = small_student(vocabulary), small_teacher(vocabulary)
    settings = OptimizationSettings(
        steps=4,
        batch_seconds=2,
        accumulation=3,
        learning_rate=1e-2,
        schedule="constant",
        sharding=sharding,
        checkpoint_every=1,
    )
    rollouts = RolloutSettings(engine="vllm", staleness=1)
    objective = ObjectiveSettings(top_k=8, max_new_tokens=12, rollouts=rollouts)
    stage = DistillationStage(student, teacher, objective, engine=CopyEngine(student))
    examples = noise_examples(student, teacher)
    sampler = DurationBatchSampler([example.utterance.duration for example in examples], max_audio_seconds=2.0, seed=0)
    stream = BatchStream(
        ExampleList(examples), sampler, batches_per_step=3, rank=processes.rank(), world_size=processes.world_size()
    )

    with killed():
        train(stage, stream, settings, folder, seed=0, on_step=kill_at(killed_at))
    stage.close()
    processes.barrier()
    if killed_at:
        return None
    return {"losses": losses(folder), "pending": stage.pending_rollouts()}


def prefetched_and_resumed(sharding, folder):
    """As `prefetched`, killed and resumed."""
    prefetched(sharding, folder, killed_at=3)
    return prefetched(sharding, folder)


def main():
    path = Path(sys.argv[1])
    folder = path.parent
    processes.start()
    measured = {
        "short": step("full", longest=2),
        "long": step("full", longest=24),
        "silent-full": step("full", silent=True),
        "silent-none": step("none", silent=True),
        "segments-none": segments_in_one_process("none"),
        "segments-full": segments_in_one_process("full"),
        "labels-none": labels_in_one_process("none"),
        "labels-full": labels_in_one_process("full"),
        "interrupted-labels-none": labels_in_one_process("none", interrupted=True),
        "interrupted-labels-full": labels_in_one_process("full", interrupted=True),
        "whisper-none": whisper_step("none"),
        "whisper-full": whisper_step("full"),
        "unsharded-sft": most_unsharded("sft"),
        "unsharded-opd": most_unsharded("opd"),
        "checkpoint-none": checkpoint_bytes("none"),
        "checkpoint-full": checkpoint_bytes("full"),
        "half-is-enough": half_paired(folder / "enough", 0.4),
        "half-is-too-little": half_paired(folder / "too-little", 0.6),
        "prefetched-full": prefetched("full", folder / "full"),
        "prefetched-none": prefetched("none", folder / "none"),
        "resumed-full": prefetched_and_resumed("full", folder / "resumed"),
        "killed": prefetched("none", folder / "on-one", killed_at=2),
    }
    if processes.is_first_rank():
        path.write_text(json.dumps(measured))
    processes.finish()


if __name__ == "__main__":
    main()
