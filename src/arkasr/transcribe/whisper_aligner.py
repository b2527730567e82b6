"""Word times from the cross-attention of a Whisper model.

In: the audio of a segment and its text. Out: begin and end of each word. Heads that follow the audio and their
normalisation are those of openai/whisper (`timing.py`). Here pauses are states of their own in the dynamic time
warping, so that no word extends into a pause that Silero found.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arkasr.data.audio import SAMPLE_RATE
from arkasr.errors import InputError
from arkasr.model.frames import ENCODER_FRAME_SAMPLES
from arkasr.recognizers.load import load_recognizer
from arkasr.recognizers.plain_text import plain_tokenizer
from arkasr.recognizers.scoring import positions
from arkasr.recognizers.whisper import Whisper
from arkasr.transcribe.speech import speech_probabilities, speech_ranges
from arkasr.transcribe.transcript import Segment, Word
from arkasr.transcribe.words import WordSpan, word_spans

FILTER_FRAMES = 7
# Scores have a standard deviation of about 1. A token cannot lie in a pause, and a pause is unlikely in speech.
TOKEN_IN_PAUSE = 100.0
PAUSE_IN_SPEECH = 4.0

Frames = NDArray[np.float64]


class TokenGroup(NamedTuple):
    """Consecutive tokens, and the words that they write. Mostly the tokens of one word.

    Attributes:
        tokens: positions in the transcript.
        words: at least one.
    """

    tokens: range
    words: Sequence[WordSpan]


class WhisperAligner:
    """Aligns the words of a text with its audio, in every language of a Whisper model.

    Args:
        name: folder or hub name of a Whisper model.
        device: of the model.
        dtype: of the weights.

    Raises:
        InputError: it is no complete Whisper model.
    """

    def __init__(self, name: str | Path, *, device: str, dtype: Any) -> None:
        # Other implementations of attention do not return its weights.
        recognizer = load_recognizer(name, device=device, dtype=dtype, attention="eager")
        if not isinstance(recognizer, Whisper):
            raise InputError(f"aligner {name}: is not a Whisper model")
        self.recognizer = recognizer
        self.recognizer.model.eval()

    @torch.no_grad()
    def align(self, segment: Segment, waveform: np.ndarray, language: str | None) -> Segment:
        """The segment with word times.

        It stays unchanged if it has no words, if the model does not know the language, or if audio or text are longer
        than the model can read.

        Args:
            segment: a segment of the recording.
            waveform: float32 `[samples]`, 16 kHz mono, the audio of the segment.
            language: by name; None = a multilingual model detects it.
        """
        spans, ids = word_spans(segment.text), self.recognizer.transcript_ids(segment.text)
        too_long = len(waveform) > self.recognizer.longest_clip_seconds * SAMPLE_RATE
        if not spans or too_long or not self.recognizer.can_write(len(ids)) or not self._knows(language):
            return segment
        groups = self._token_groups(segment.text, spans)
        scores = self._scores(ids, waveform, language)
        times = frames_of_groups(scores, [group.tokens for group in groups], _is_speech(waveform, scores.shape[1]))
        words = [
            word
            for group, (first, last) in zip(groups, times, strict=True)
            for word in _words(
                segment, group.words, first * ENCODER_FRAME_SAMPLES, last * ENCODER_FRAME_SAMPLES, len(waveform)
            )
        ]
        return replace(segment, words=tuple(words))

    def _knows(self, language: str | None) -> bool:
        try:
            self.recognizer.prompt_ids(language)
        except InputError:
            return False
        return True

    def _scores(self, ids: Tensor, waveform: np.ndarray, language: str | None) -> Frames:
        """How well each token of a transcript fits to each frame that holds audio, `[n, frames]`."""
        recognizer, device = self.recognizer, self.recognizer.device
        prompts = recognizer.prompts([recognizer.features(waveform)], [language]).to(device)
        prompts = recognizer.embed_audio(prompts)
        input_ids = torch.cat((prompts.input_ids, ids[None].to(device)), dim=1)
        mask = torch.ones_like(input_ids)
        outputs = recognizer.decoder(
            **recognizer.decoder_inputs(input_ids, prompts.audio),
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=False,
            output_attentions=True,
        )
        chosen = [outputs.cross_attentions[layer][0, head] for layer, head in self._alignment_heads()]
        frames = min(-(-len(waveform) // ENCODER_FRAME_SAMPLES), chosen[0].shape[1])
        weights = torch.stack(chosen)[:, :, :frames].double().cpu().numpy()
        weights /= weights.sum(axis=2, keepdims=True)
        normal = (weights - weights.mean(axis=1, keepdims=True)) / (weights.std(axis=1, keepdims=True) + 1e-12)
        padding = FILTER_FRAMES // 2
        padded = np.pad(normal, ((0, 0), (0, 0), (padding, padding)), mode="edge")
        smooth = np.median(np.lib.stride_tricks.sliding_window_view(padded, FILTER_FRAMES, axis=2), axis=-1)
        scores: Frames = smooth.mean(axis=0)
        # The row before a token is the one that predicts it.
        before_first = prompts.lengths[0] - 1
        return scores[before_first : before_first + len(ids)]

    def _alignment_heads(self) -> list[tuple[int, int]]:
        """Layer and head of the heads that follow the audio; unless published, all of the upper half of the layers."""
        config = self.recognizer.model.config
        published = getattr(self.recognizer.model.generation_config, "alignment_heads", None)
        layers = range(config.decoder_layers // 2, config.decoder_layers)
        heads = [(layer, head) for layer in layers for head in range(config.decoder_attention_heads)]
        return [(layer, head) for layer, head in published] if published else heads

    def _token_groups(self, text: str, spans: Sequence[WordSpan]) -> list[TokenGroup]:
        """The tokens of each word; words that share their first token are one group."""
        prefix = self.recognizer.transcript_prefix(text)
        encoded = plain_tokenizer(self.recognizer.tokenizer).encode(prefix + text, add_special_tokens=False)
        ends = [end - len(prefix) for _, end in encoded.offsets]
        first_tokens = [next(token for token, end in enumerate(ends) if end > span.begin) for span in spans]
        words: dict[int, list[WordSpan]] = {}
        for span, token in zip(spans, first_tokens, strict=True):
            words.setdefault(token, []).append(span)
        stops = [*list(words)[1:], len(ends)]
        return [TokenGroup(range(first, stop), words[first]) for first, stop in zip(words, stops, strict=True)]


def frames_of_groups(scores: Frames, groups: Sequence[range], is_speech: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First frame, and the one after the last, of each group of tokens.

    Tokens and pauses follow each other in order; between two groups there may be a pause. Every frame belongs to at
    least one of them, and the sum of the scores is as high as possible. Groups do not overlap.

    Args:
        scores: `[n, frames]`, for each token of the transcript.
        groups: consecutive tokens.
        is_speech: bool `[frames]`.
    """
    pause = np.where(is_speech, PAUSE_IN_SPEECH, 0.0)
    rows, of_tokens = [pause], []
    for tokens in groups:
        first = len(rows)
        rows += [np.where(is_speech, 0.0, TOKEN_IN_PAUSE) - scores[token] for token in tokens]
        of_tokens.append(range(first, len(rows)))
        rows.append(pause)
    begins, ends = cheapest_path(np.stack(rows))
    starts = [int(begins[tokens[0]]) for tokens in of_tokens]
    stops = [int(ends[tokens[-1]]) for tokens in of_tokens]
    # Neighbours of the path can share a frame.
    return [
        (start, max(start, min(stop, following)))
        for start, stop, following in zip(starts, stops, [*starts[1:], stops[-1]], strict=True)
    ]


def cheapest_path(costs: Frames) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Dynamic time warping: the path from the first row and column to the last ones with the lowest sum of costs.

    A step goes to the next row, the next column, or both.

    Args:
        costs: `[rows, columns]`.

    Returns:
        For each row, its first column, and the one after its last.
    """
    rows, columns = costs.shape
    best = np.full((rows + 1, columns + 1), np.inf)
    best[0, 0] = 0.0
    for column in range(1, columns + 1):
        # Steps down within a column: best[r] = sum to r + the lowest of (entered at r' − sum before r').
        sums = np.concatenate(([0.0], np.cumsum(costs[:, column - 1])))
        entered = np.minimum(best[:-1, column - 1], best[1:, column - 1])
        best[1:, column] = sums[1:] + np.minimum.accumulate(entered - sums[:-1])
    begins, ends = np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=np.int64)
    row, column = rows, columns
    ends[row - 1] = column
    while row > 1 or column > 1:
        diagonal, up, left = best[row - 1, column - 1], best[row - 1, column], best[row, column - 1]
        if left < min(diagonal, up):
            column -= 1
            continue
        begins[row - 1] = column - 1
        column -= diagonal <= up
        row -= 1
        ends[row - 1] = column
    return begins, ends


def _is_speech(waveform: np.ndarray, frames: int) -> NDArray[np.bool_]:
    """Whether each frame holds speech; all do if Silero finds none."""
    probabilities = speech_probabilities(lambda begin, end: waveform[begin:end], len(waveform))
    found = np.zeros(frames, dtype=bool)
    for part in speech_ranges(probabilities, len(waveform), margin_ms=0):
        found[round(part.begin / ENCODER_FRAME_SAMPLES) : round(part.end / ENCODER_FRAME_SAMPLES)] = True
    return found if found.any() else np.ones(frames, dtype=bool)


def _words(segment: Segment, spans: Sequence[WordSpan], begin: int, end: int, samples: int) -> list[Word]:
    """Words that share samples, one after the other, each in proportion to its letters."""
    end = min(end, samples)
    begin = min(begin, end)
    letters = np.cumsum([0, *(len(span.text) for span in spans)])
    times = segment.begin + (begin + (end - begin) * letters / letters[-1]) / SAMPLE_RATE
    return [Word(span.text, float(times[index]), float(times[index + 1])) for index, span in enumerate(spans)]
