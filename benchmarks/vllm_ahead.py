"""What it brings that vLLM writes the next step's rollouts while this one is trained: `staleness: 1` against 0.

    .venv-vllm/bin/python -m benchmarks.vllm_ahead --model FOLDER --manifest FILE

OPD steps on real recordings with one engine, in turns without and with a step ahead, every turn from the same weights.
Trainer and engine should not take each other's cores: OMP_NUM_THREADS=1 on two of them. Prints the median time of a
step of each, what the trainer waits for rollouts in it, and the ratio of the two over the pairs of turns.
"""

import argparse
import copy
import statistics
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.timing import spread

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset, FeatureMemory
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
    parser.add_argument("--model", required=True, help="the student, and its own teacher")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--turns", type=int, default=3, help="of each")
    parser.add_argument("--batch-seconds", type=float, default=30.0)
    parser.add_argument("--cache-gib", type=float, default=1.0)
    options = parser.parse_args()
    student, teacher = load_recognizer(options.model), load_recognizer(options.model)
    start = copy.deepcopy(student.model.state_dict())
    utterances = read_manifest(options.manifest)
    dataset = ExampleDataset(utterances, {student.frontend: student.features}, FeatureMemory())
    lengths = [seconds_of(utterance) for utterance in utterances]
    settings = OptimizationSettings(
        steps=options.steps + WARM_UP_STEPS, batch_seconds=options.batch_seconds, learning_rate=1e-6
    )
    engine = VllmEngine(student, max_new_tokens=128, dtype="float32", cache_gib=options.cache_gib)

    def steps_of(staleness: int) -> tuple[float, float]:
        """Median seconds of a step, and of the wait for rollouts in it."""
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

    ratios = []
    for _ in range(options.turns):
        (waiting, waited), (ahead, waited_ahead) = steps_of(0), steps_of(1)
        ratios.append(ahead / waiting)
        print(
            f"a step {waiting:.2f} s, of it rollouts {waited:.2f} s; a step ahead {ahead:.2f} s, {waited_ahead:.2f} s"
        )
    engine.close()
    print(f"with a step ahead over without: {spread(ratios)} in {options.turns} pairs of turns")


if __name__ == "__main__":
    main()
