"""An OPD step of two processes that have unlike work; the first one writes to a folder what it saw."""

import json
import sys
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from arkasr import processes
from arkasr.data.batches import DurationBatchSampler
from arkasr.train.distribution import accelerator_for, spread
from arkasr.train.loop import optimizer_step, train
from arkasr.train.metrics import read_metrics
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings, RolloutSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stream import BatchStream
from tests.models import hear_noise, small_student, small_teacher, small_vocabulary
from tests.train.copy_engine import CopyEngine
from tests.train.stream import Heard


class Gathers(TorchDispatchMode):
    """Counts how often processes gather a tensor from each other."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += "allgather" in operation.name()
        return operation(*args, **(kwargs or {}))


def step(sharding, *, longest=12, silent=False):
    """One optimizer step; the first process has one utterance, and leaves it empty where it is `silent`."""
    vocabulary = small_vocabulary()
    student, teacher = small_student(vocabulary), small_teacher(vocabulary)
    if silent and processes.is_first():
        student.allowed_tokens = torch.arange(student.vocab_size) == student.stop_token_id
    settings = OptimizationSettings(
        steps=1, batch_seconds=10, accumulation=2, learning_rate=1e-3, max_grad_norm=1e9, sharding=sharding
    )
    stage = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=longest))
    accelerator = accelerator_for(stage, settings)
    module, optimizers = spread(accelerator, stage, settings)
    texts = [None] if silent and processes.is_first() else ["the red book", "two green", "mary met john"]
    examples = hear_noise(student, teacher, texts=texts)
    with Gathers() as gathers:
        outcome = optimizer_step(accelerator, stage, module, optimizers, iter([examples]), settings, 1, 0)
    seen = {"gathers": gathers.count, **outcome.metrics.values()}
    return [json.loads(text) for text in processes.exchange(json.dumps(seen))]


def ahead(sharding, place):
    """The losses of three steps whose rollouts an engine of each process writes a step ahead."""
    vocabulary = small_vocabulary()
    student, teacher = small_student(vocabulary), small_teacher(vocabulary)
    settings = OptimizationSettings(
        steps=3, batch_seconds=2, accumulation=3, learning_rate=1e-2, schedule="constant", sharding=sharding
    )
    rollouts = RolloutSettings(engine="vllm", staleness=1)
    objective = ObjectiveSettings(top_k=8, max_new_tokens=12, rollouts=rollouts)
    stage = DistillationStage(student, teacher, objective, engine=CopyEngine(student))
    examples = hear_noise(student, teacher)
    sampler = DurationBatchSampler([example.utterance.duration for example in examples], max_audio_seconds=2.0, seed=0)
    stream = BatchStream(Heard(examples), sampler, per_step=3, rank=processes.rank(), processes=processes.count())
    train(stage, stream, settings, place, seed=0)
    stage.close()
    return [line["loss"] for line in read_metrics(place / "metrics.jsonl")]


def main():
    processes.start()
    place = Path(sys.argv[1]).parent
    seen = {
        "short": step("full", longest=2),
        "long": step("full", longest=24),
        "silent-full": step("full", silent=True),
        "silent-none": step("none", silent=True),
        "ahead-full": ahead("full", place / "full"),
        "ahead-none": ahead("none", place / "none"),
    }
    if processes.is_first():
        Path(sys.argv[1]).write_text(json.dumps(seen))
    processes.finish()


if __name__ == "__main__":
    main()
