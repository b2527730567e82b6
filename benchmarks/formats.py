"""One recording in all containers and codecs of the tests: the same words, and the same times.

    python -m benchmarks.formats --model FOLDER --recording FILE

Prints for each format how many words of the transcript differ from that of 16-bit WAV, and by how much the begin or end
of a segment differs at most.
"""

import argparse
import tempfile
from pathlib import Path

import jiwer
from tests.audio_files import FORMATS, write_audio

from arkasr import Transcriber
from arkasr.data.audio import decode_audio

REFERENCE = "16.wav"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--recording", type=Path, required=True, help="of some seconds of speech")
    options = parser.parse_args()
    transcriber = Transcriber(options.model, device="cpu")
    samples = decode_audio(options.recording)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in (REFERENCE, *(name for name in FORMATS if name != REFERENCE))}
        for name, path in paths.items():
            write_audio(path, samples, FORMATS[name])
        transcripts = dict(zip(paths, transcriber.transcribe(list(paths.values())), strict=True))
    expected = transcripts[REFERENCE]
    print(f"{REFERENCE}: {expected.text}")
    for name, transcript in transcripts.items():
        errors = jiwer.process_words(expected.text, transcript.text or "-")
        different = errors.substitutions + errors.insertions + errors.deletions
        pairs = list(zip(expected.segments, transcript.segments, strict=False))
        late = max(
            (abs(a - b) for one, two in pairs for a, b in ((one.begin, two.begin), (one.end, two.end))), default=9
        )
        segments = (
            "" if len(transcript.segments) == len(expected.segments) else f", {len(transcript.segments)} segments"
        )
        print(f"{name}: {different} words differ, times by at most {late:.3f} s{segments} {transcript.error or ''}")


if __name__ == "__main__":
    main()
