"""How the cost of an OPD step grows with audio, text, vocabulary, k and batch, beside an SFT step: a table and a plot.

    python -m benchmarks.opd_curves --output docs/opd-cost.svg

One thing is varied at a time around the point `START`, on the small student. Every figure is a multiple of the SFT step
at that point, measured in the same run. Needs matplotlib.
"""

import argparse
from pathlib import Path

from benchmarks.opd_step import Measured, measure, options_of
from matplotlib import pyplot

START = {"utterances": 8, "seconds": 10.0, "tokens": 40, "vocabulary": 20_000, "top_k": 32}
VARIED = {
    "seconds": [2.5, 5.0, 10.0, 20.0],
    "tokens": [10, 20, 40, 80, 160],
    "vocabulary": [2_000, 20_000, 80_000, 152_000],
    "top_k": [8, 32, 128, 512],
    "utterances": [2, 4, 8, 16, 32],
}
NAMES = {
    "seconds": "seconds of audio an utterance",
    "tokens": "tokens an utterance",
    "vocabulary": "vocabulary",
    "top_k": "k",
    "utterances": "utterances a batch",
}
LINES = {"OPD step": "#0072b2", "its rollout": "#56b4e9", "SFT step": "#d55e00", "teacher": "#999999"}


def at(point: dict[str, float], repeats: int) -> Measured:
    options = options_of([])
    for name, value in point.items():
        setattr(options, name, value)
    options.repeats = repeats
    return measure(options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/opd-cost.svg"))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    at(START, 1)  # what is slow only the first time
    unit = at(START, options.repeats).seconds["sft"]["step"]
    figure, panels = pyplot.subplots(1, len(VARIED), figsize=(15, 3.2), layout="constrained")
    for panel, (name, values) in zip(panels, VARIED.items(), strict=True):
        lines: dict[str, list[float]] = {line: [] for line in LINES}
        print(f"| {NAMES[name]} | {' | '.join(LINES)} | OPD / SFT |\n|---|{'---|' * (len(LINES) + 1)}")
        for value in values:
            found = at(START | {name: value}, options.repeats)
            opd, sft = found.seconds["opd"], found.seconds["sft"]
            row = [opd["step"] / unit, opd["rollout"] / unit, sft["step"] / unit, opd["teacher"] / unit]
            for line, figure_of_line in zip(lines.values(), row, strict=True):
                line.append(figure_of_line)
            print(
                f"| {value:g} | {' | '.join(f'{cell:.2f}' for cell in row)} | {opd['step'] / sft['step']:.2f} |",
                flush=True,
            )
        for line, heights in lines.items():
            panel.plot(values, heights, marker="o", markersize=3, color=LINES[line], label=line)
        panel.set_xlabel(NAMES[name])
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
