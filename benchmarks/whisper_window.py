"""The time of a Whisper encoder for one clip, with windows of different lengths.

    OMP_NUM_THREADS=1 python -m benchmarks.whisper_window --model FOLDER --windows 30 20 15 10

Prints, for each window, its time and how many times faster it is than the first one: the median and the range over
repeats. The windows take turns, so that other work on the machine slows all of them. float32.
"""

import argparse
import copy
from functools import partial

import torch
from benchmarks.timing import median_and_range, ratios, seconds_taken

from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.whisper import Whisper
from arkasr.recognizers.whisper_window import with_window


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub name of a Whisper model")
    parser.add_argument("--windows", type=int, nargs="+", default=[30, 20, 15, 10], help="seconds, the longest first")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    whisper = load_recognizer(options.model, device=options.device)
    assert isinstance(whisper, Whisper)
    whisper.model.eval()
    encoders, features, times = {}, {}, {}
    for seconds in options.windows:
        encoders[seconds] = with_window(copy.deepcopy(whisper), seconds).model.model.encoder
        mels = whisper.model.config.num_mel_bins
        features[seconds] = torch.randn(1, mels, 100 * seconds, device=options.device)
        encoders[seconds](features[seconds])
        times[seconds] = []
    for _ in range(options.repeats):
        for seconds, encoder in encoders.items():
            times[seconds].append(seconds_taken(partial(encoder, features[seconds]), options.device))
    print(f"{torch.get_num_threads()} threads, {options.repeats} repeats")
    for seconds, taken in times.items():
        milliseconds = median_and_range([1000 * value for value in taken], 0)
        faster = median_and_range(ratios(times[options.windows[0]], taken))
        print(f"window of {seconds} s: {milliseconds} ms, {faster} times faster than {options.windows[0]} s")


if __name__ == "__main__":
    main()
