"""Cost of OPD and SFT steps by seconds of audio, tokens, vocabulary, k and batch size: tables and a plot.

    python -m benchmarks.opd_curves --output docs/opd-cost.svg

One quantity is varied at a time around `START`, on the small student with random weights. All costs are in units of the
SFT step at `START`, measured in the same run. Needs matplotlib.
"""

import argparse
from pathlib import Path

from benchmarks.opd_step import Measurement, measure, parse_options
from matplotlib import pyplot

START = {"utterances": 8, "seconds": 10.0, "tokens": 40, "vocabulary": 20_000, "top_k": 32}
VARIED = {
    "seconds": [2.5, 5.0, 10.0, 20.0],
    "tokens": [10, 20, 40, 80, 160],
    "vocabulary": [2_000, 20_000, 80_000, 152_000],
    "top_k": [8, 32, 128, 512],
    "utterances": [2, 4, 8, 16, 32],
}
LABELS = {
    "seconds": "seconds of audio an utterance",
    "tokens": "tokens an utterance",
    "vocabulary": "vocabulary",
    "top_k": "k",
    "utterances": "utterances a batch",
}
CURVES = {"OPD step": "#0072b2", "its rollout": "#56b4e9", "SFT step": "#d55e00", "teacher": "#999999"}


def measure_at(point: dict[str, float], repeats: int) -> Measurement:
    options = parse_options([])
    for name, value in point.items():
        setattr(options, name, value)
    options.repeats = repeats
    return measure(options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/opd-cost.svg"), help="the plot")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each point")
    options = parser.parse_args()
    measure_at(START, 1)  # warm-up
    unit = measure_at(START, options.repeats).seconds["sft"]["step"]
    figure, panels = pyplot.subplots(1, len(VARIED), figsize=(15, 3.2), layout="constrained")
    for panel, (name, values) in zip(panels, VARIED.items(), strict=True):
        rows = []
        print(f"| {LABELS[name]} | {' | '.join(CURVES)} | OPD / SFT |\n|---|{'---|' * (len(CURVES) + 1)}")
        for value in values:
            found = measure_at(START | {name: value}, options.repeats)
            opd, sft = found.seconds["opd"], found.seconds["sft"]
            seconds = (opd["step"], opd["rollout"], sft["step"], opd["teacher"])
            rows.append([taken / unit for taken in seconds])
            cells = " | ".join(f"{cost:.2f}" for cost in rows[-1])
            print(f"| {value:g} | {cells} | {opd['step'] / sft['step']:.2f} |", flush=True)
        for (curve, color), costs in zip(CURVES.items(), zip(*rows, strict=True), strict=True):
            panel.plot(values, costs, marker="o", markersize=3, color=color, label=curve)
        panel.set_xlabel(LABELS[name])
        panel.set_ylim(bottom=0)
        if name in ("vocabulary", "top_k"):
            panel.set_xscale("log")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("SFT steps at the starting point")
    panels[0].legend(frameon=False)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output)


if __name__ == "__main__":
    main()
