"""Counts how often two processes with shares of a student gather weights in an OPD step; writes it to a folder."""

import json
import sys
from pathlib import Path

from torch.utils._python_dispatch import TorchDispatchMode

from arkasr import processes
from arkasr.train.distribution import accelerator_for, spread
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings
from arkasr.train.stages.opd import DistillationStage
from tests.models import hear_noise, small_student, small_teacher, small_vocabulary

SETTINGS = OptimizationSettings(steps=1, batch_seconds=10, learning_rate=1e-3, sharding="full")


class Gathers(TorchDispatchMode):
    """Counts how often processes gather a tensor from each other."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += "allgather" in operation.name()
        return operation(*args, **(kwargs or {}))


def main():
    processes.start()
    vocabulary = small_vocabulary()
    for longest in (2, 24):
        student, teacher = small_student(vocabulary), small_teacher(vocabulary)
        stage = DistillationStage(student, teacher, ObjectiveSettings(top_k=8, max_new_tokens=longest))
        module, _ = spread(accelerator_for(stage, SETTINGS), stage, SETTINGS)
        # Ranks that write unlike numbers of tokens, and so take unlike numbers of passes.
        examples = hear_noise(student, teacher)[: 1 + 3 * processes.rank()]
        with Gathers() as gathers:
            loss = module(examples, 0)
            loss.total.backward()
        if processes.is_first():
            seen = {"gathers": gathers.count, "passes": loss.metrics.values()["rollout/passes"]}
            (Path(sys.argv[1]) / f"{longest}.json").write_text(json.dumps(seen))
    processes.finish()


if __name__ == "__main__":
    main()
