"""Time of an OPD step if vLLM writes the next step's rollouts during training (`staleness: 1`), against `staleness: 0`.

    OMP_NUM_THREADS=1 .venv-vllm/bin/python -m benchmarks.vllm_ahead --model FOLDER --manifest FILE

Prints the median time of a step, how long the trainer waits for rollouts in it, and the ratio of the two settings. Both
alternate with one engine, and each run starts from the same weights. Needs vLLM, a model and real recordings.
Trainer and engine must not compete for cores: use one thread each on two cores.
"""

import argparse
import copy
import statistics
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.timing import median_and_range

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset, FeatureCache
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import read_manifest
from arkasr.recognizers.load import load_recognizer
from arkasr.train.loop import train
from arkasr.train.settings import ObjectiveSettings, OptimizationSettings, RolloutSettings
from arkasr.train.stages.opd import DistillationStage
from arkasr.train.stream import BatchStream
from arkasr.vllm.engine import VllmEngine

WARM_UP_STEPS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="student, which is also its own teacher")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a run")
    parser.add_argument("--turns", type=int, default=3, help="runs of each setting")
    parser.add_argument("--batch-seconds", type=float, default=30.0, help="audio of a batch")
    parser.add_argument("--cache-gib", type=float, default=1.0, help="vLLM's key-value cache")
    options = parser.parse_args()
    student, teacher = load_recognizer(options.model), load_recognizer(options.model)
    start = copy.deepcopy(student.model.state_dict())
    utterances = read_manifest(options.manifest)
    dataset = ExampleDataset(utterances, {student.frontend: student.features}, FeatureCache())
    lengths = [seconds_of(utterance) for utterance in utterances]
    settings = OptimizationSettings(
        steps=options.steps + WARM_UP_STEPS, batch_seconds=options.batch_seconds, learning_rate=1e-6
    )
    engine = VllmEngine(student, max_new_tokens=128, dtype="float32", cache_gib=options.cache_gib)

    def train_with(staleness: int) -> tuple[float, float]:
        """Median seconds of a step, and of waiting for rollouts in it."""
        student.model.load_state_dict(start)
        engine.on_weights_changed()
        objective = ObjectiveSettings(max_new_tokens=128, rollouts=RolloutSettings(engine="vllm", staleness=staleness))
        stage = DistillationStage(student, teacher, objective, engine=engine)
        stream = BatchStream(dataset, DurationBatchSampler(lengths, max_audio_seconds=options.batch_seconds, seed=0))
        ends, waits = [], []

        def on_step(_step: int, values: dict[str, float]) -> None:
            ends.append(time.perf_counter())
            waits.append(values["time/rollout"])

        with TemporaryDirectory() as folder:
            train(stage, stream, settings, Path(folder), seed=0, on_step=on_step)
        taken = [after - before for before, after in pairwise(ends)]
        return statistics.median(taken[WARM_UP_STEPS:]), statistics.median(waits[WARM_UP_STEPS:])

    step_ratios = []
    for _ in range(options.turns):
        present, ahead = train_with(0), train_with(1)
        step_ratios.append(ahead[0] / present[0])
        for staleness, (step, wait) in enumerate((present, ahead)):
            print(f"staleness {staleness}: step {step:.2f} s, waiting for rollouts {wait:.2f} s")
    engine.close()
    print(f"step with staleness 1 / 0: {median_and_range(step_ratios)}, {options.turns} pairs of runs")


if __name__ == "__main__":
    main()
