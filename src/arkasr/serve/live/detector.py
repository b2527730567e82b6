"""Voice activity of a stream, frame by frame, in bounded memory."""

from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray

from arkasr.data.audio import SAMPLE_RATE
from arkasr.transcribe.speech import FRAME_SAMPLES, LOUD_FRAMES, SILENT_RMS, SPEECH_RMS, open_frame_detector

# Levels of the last half minute decide how much a quiet stream is amplified for the detector.
LEVEL_FRAMES = 940


class StreamDetector:
    """Silero's model with the state of one stream."""

    def __init__(self) -> None:
        self._silero = open_frame_detector()
        self._levels: deque[float] = deque(maxlen=LEVEL_FRAMES)

    def probability(self, frame: NDArray[np.float32]) -> float:
        """Probability of speech in the next frame, float32 `[FRAME_SAMPLES]`, 16 kHz mono.

        As for recordings, the detector hears a quiet stream amplified, and never a loud one quieter.
        """
        assert frame.shape == (FRAME_SAMPLES,)
        centred = frame - frame.mean()
        self._levels.append(float(np.sqrt(np.square(centred).mean())))
        loud = sorted(self._levels)[-min(LOUD_FRAMES, len(self._levels))]
        if loud >= SILENT_RMS:
            centred = centred * np.float32(max(SPEECH_RMS / loud, 1.0))
        return float(self._silero(torch.from_numpy(np.ascontiguousarray(centred, dtype=np.float32)), SAMPLE_RATE))
