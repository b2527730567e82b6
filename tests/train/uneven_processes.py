"""OPD steps of two processes that have unlike work; the first one writes to a file what each of them saw."""

import json
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from arkasr import processes
from arkasr.data.batches import DurationBatchSampler
from arkasr.errors import InputError
from arkasr.recognizers.ark_asr import build_ark_asr
from arkasr.recognizers.tokenizer import train_base_vocabulary
from arkasr.train.checkpoint import tensors_to_write
from arkasr.train.distribution import accelerator_for, distribute
from arkasr.train.loop import train
from arkasr.train.metrics import read_metrics
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings, RolloutSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stages.sft import SupervisedStage
from arkasr.train.step import optimizer_step
from arkasr.train.stream import BatchStream
from tests.models import SMALL_STUDENT, TEXTS, hear_noise, small_student, small_teacher, small_vocabulary
from tests.train.copy_engine import CopyEngine
from tests.train.stream import Heard, Stream

DEEP_STUDENT = SMALL_STUDENT | {
    "num_hidden_layers": 6,
    "whisper_config": SMALL_STUDENT["whisper_config"] | {"encoder_layers": 6},
}


class KilledError(Exception):
    pass


class Gathers(TorchDispatchMode):
    """Counts how often processes gather a tensor from each other."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += "allgather" in operation.name()
        return operation(*args, **(kwargs or {}))


class Whole(TorchDispatchMode):
    """Looks, at every operation, how many weights of a stage are no shares."""

    def __init__(self, stage):
        super().__init__()
        self.parameters = stage.parameters
        self.most = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        whole = sum(value.numel() for value in self.parameters() if not isinstance(value, DTensor))
        self.most = max(self.most, whole)
        return operation(*args, **(kwargs or {}))


def step(sharding, *, longest=12, silent=False):
    """One optimizer step; the first process has one utterance, and leaves it empty where it is `silent`."""
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
    examples = hear_noise(student, teacher, texts=texts)
    with Gathers() as gathers:
        outcome = optimizer_step(accelerator, stage, module, optimizers, iter([examples]), settings, 1, 0, 1.0)
    seen = {"gathers": gathers.count, **outcome.metrics.values()}
    return [json.loads(text) for text in processes.all_gather_text(json.dumps(seen))]


def whole_at_once(kind):
    """Weights of a student in shares that lie whole on each process in a step, at most, by rank."""
    vocabulary = small_vocabulary()
    student = build_ark_asr(DEEP_STUDENT, vocabulary)
    stage = SupervisedStage(student, None)
    if kind == "opd":
        objective = ObjectiveSettings(top_k=8, max_new_tokens=4)
        stage = DistillationStage(student, small_teacher(vocabulary), objective)
    settings = OptimizationSettings(steps=1, batch_seconds=10, accumulation=2, learning_rate=1e-3, sharding="full")
    accelerator = accelerator_for(stage, settings)
    module, optimizers = distribute(accelerator, stage, settings)
    with Whole(stage) as whole:
        examples = hear_noise(*stage.recognizers)
        optimizer_step(accelerator, stage, module, optimizers, iter([examples]), settings, 1, 0, 1.0)
    return [json.loads(text) for text in processes.all_gather_text(json.dumps(whole.most))]


def copied(sharding):
    """What each process copies for a checkpoint: the bytes of every tensor, by rank."""
    student = small_student(small_vocabulary())
    settings = OptimizationSettings(steps=1, batch_seconds=10, accumulation=2, learning_rate=1e-3, sharding=sharding)
    stage = SupervisedStage(student, None)
    accelerator = accelerator_for(stage, settings)
    module, optimizers = distribute(accelerator, stage, settings)
    optimizer_step(accelerator, stage, module, optimizers, iter([hear_noise(student)]), settings, 1, 0, 1.0)
    tensors = tensors_to_write(stage, [optimizer.optimizer for optimizer in optimizers])
    lying_here = {name: value.to_local() if isinstance(value, DTensor) else value for name, value in tensors.items()}
    held = {name: value.nbytes for name, value in lying_here.items()}
    return [json.loads(text) for text in processes.all_gather_text(json.dumps(held))]


def paired(folder, least):
    """Steps of a first process whose every token the teacher can answer for, and a second one that has none.

    Together half of the tokens are paired. Returns how far each process came and with what error, by rank.
    """
    student, teacher = small_student(small_vocabulary()), small_student(train_base_vocabulary(TEXTS * 3, 256))
    objective = ObjectiveSettings(top_k=8, max_new_tokens=12, min_mapped_share=least)
    stage = DistillationStage(student, teacher, objective)
    known = stage.vocabulary.student_to_teacher >= 0
    student.allowed_tokens &= known if processes.is_first_rank() else ~known
    settings = OptimizationSettings(steps=4, batch_seconds=10, accumulation=2, learning_rate=1e-6)
    came, error = [], None
    try:
        train(
            stage,
            Stream([hear_noise(student)]),
            settings,
            folder,
            seed=0,
            on_step=lambda step, _: came.append(step),
        )
    except InputError as caught:
        error = f"{type(caught).__name__}: {caught}"
    return [json.loads(text) for text in processes.all_gather_text(json.dumps([came, error]))]


def ahead(sharding, place, *, killed_behind=None):
    """The losses of four steps whose rollouts an engine of each process writes a step ahead, and what is left begun."""
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
    examples = hear_noise(student, teacher)
    sampler = DurationBatchSampler([example.utterance.duration for example in examples], max_audio_seconds=2.0, seed=0)
    stream = BatchStream(Heard(examples), sampler, per_step=3, rank=processes.rank(), world_size=processes.world_size())

    def on_step(step, _values):
        if step == killed_behind:
            raise KilledError

    with suppress(KilledError):
        train(stage, stream, settings, place, seed=0, on_step=on_step)
    stage.close()
    processes.barrier()
    if killed_behind:
        return None
    return {
        "losses": [line["loss"] for line in read_metrics(place / "metrics.jsonl")],
        "left": stage.pending_rollouts(),
    }


def killed_and_continued(sharding, place):
    """As `ahead`, in two sittings."""
    ahead(sharding, place, killed_behind=3)
    return ahead(sharding, place)


def main():
    path = Path(sys.argv[1])
    place = path.parent
    processes.start()
    seen = {
        "short": step("full", longest=2),
        "long": step("full", longest=24),
        "silent-full": step("full", silent=True),
        "silent-none": step("none", silent=True),
        "whole-sft": whole_at_once("sft"),
        "whole-opd": whole_at_once("opd"),
        "copied-none": copied("none"),
        "copied-full": copied("full"),
        "half-is-enough": paired(place / "enough", 0.4),
        "half-is-too-little": paired(place / "too-little", 0.6),
        "ahead-full": ahead("full", place / "full"),
        "ahead-none": ahead("none", place / "none"),
        "continued-full": killed_and_continued("full", place / "continued"),
        "killed": ahead("none", place / "on-one", killed_behind=2),
    }
    if processes.is_first_rank():
        path.write_text(json.dumps(seen))
    processes.finish()


if __name__ == "__main__":
    main()
