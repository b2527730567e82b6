"""A recogniser over many clips: batches by duration, features computed ahead while an accelerator decodes.

A clip that cannot be heard is reported and does not stop the rest. Knows neither files nor references: where features
come from is handed in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset, FeatureMemory
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import Utterance
from arkasr.errors import InputError
from arkasr.prefetch import prefetch
from arkasr.recognizers.decoding import Transcripts, decode
from arkasr.recognizers.engine import Engine
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.text import clean_transcript

BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Recognition:
    """What a recogniser made of one clip.

    Attributes:
        raw: the text as generated, control tokens kept; None when the clip failed.
        text: the cleaned text; None when the clip failed.
        tokens: generated tokens, the stop token included.
        stopped: False when the cap on tokens was reached first.
        error: why the clip failed.
    """

    raw: str | None = None
    text: str | None = None
    tokens: int = 0
    stopped: bool = False
    error: str | None = None


@dataclass(frozen=True)
class RecognitionSettings:
    """How much is decoded at once and how far.

    Attributes:
        batch_seconds: audio seconds in a batch, padding included; a second is 12.5 audio tokens of the prompt.
        max_new_tokens: cap on the tokens of a transcript.
        batch_clips: clips in a batch, at most; None = no bound.
    """

    batch_seconds: float = 120.0
    max_new_tokens: int = 256
    batch_clips: int | None = None


def recognize_clips(
    recognizer: Recognizer,
    seconds: Mapping[int, float],
    features: Callable[[int], Tensor],
    languages: Callable[[int], str | None],
    settings: RecognitionSettings,
    engine: Engine | None = None,
) -> Iterator[dict[int, Recognition]]:
    """Transcribe clips, the longest first; a batch's results come as soon as it is done.

    Args:
        recognizer: decodes greedily; its model is put into eval mode.
        seconds: length of every clip, by its number.
        features: log-mel float32 `[mels, T]` of a clip; may be called in a thread of its own, and may raise InputError.
        languages: of a clip, for a recogniser that must be told.
        settings: batch size and cap.
        engine: writes for the recogniser; None = `decode`, in this process.
    """
    recognizer.model.eval()
    numbers = list(seconds)
    sampler = DurationBatchSampler(
        list(seconds.values()),
        max_audio_seconds=max([settings.batch_seconds, *seconds.values()]),
        max_utterances=settings.batch_clips,
        shuffle=False,
    )
    batches = [[numbers[place] for place in batch] for batch in sampler.batches(epoch=0)]

    def hear(batch: list[int]) -> dict[int, Tensor | InputError]:
        return {number: _heard(features, number) for number in batch}

    # On the CPU a second thread takes the cores that the model computes on, and costs more than it saves.
    heard = map(hear, batches) if recognizer.device.type == "cpu" else prefetch(hear, batches, BATCHES_AHEAD)
    for batch, found in zip(batches, heard, strict=True):
        yield _recognize_batch(recognizer, batch, found, languages, settings, engine or decode)


def recognize(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    settings: RecognitionSettings,
    *,
    engine: Engine | None = None,
    memory: FeatureMemory | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Recognition]:
    """Transcribe every utterance of a manifest.

    Args:
        recognizer: decodes greedily; its model is put into eval mode.
        utterances: in the order in which results are returned.
        settings: batch size and cap.
        engine: writes for the recogniser; None = `decode`, in this process.
        memory: features already computed.
        on_batch: told the number of utterances just done.
    """
    dataset = ExampleDataset(utterances, {recognizer.frontend: recognizer.features}, memory)
    results: list[Recognition] = [Recognition()] * len(utterances)
    seconds = {}
    for place, utterance in enumerate(utterances):
        try:
            seconds[place] = seconds_of(utterance)
        except InputError as error:
            results[place] = Recognition(error=str(error))
    batches = recognize_clips(
        recognizer,
        seconds,
        lambda place: dataset[place].features[recognizer.frontend],
        lambda place: utterances[place].language,
        settings,
        engine,
    )
    for batch in batches:
        for place, recognition in batch.items():
            results[place] = recognition
        if on_batch:
            on_batch(len(batch))
    return results


def _heard(features: Callable[[int], Tensor], number: int) -> Tensor | InputError:
    try:
        return features(number)
    except InputError as error:
        return error


def _recognize_batch(
    recognizer: Recognizer,
    batch: Sequence[int],
    heard: Mapping[int, Tensor | InputError],
    languages: Callable[[int], str | None],
    settings: RecognitionSettings,
    write: Callable[..., Transcripts],
) -> dict[int, Recognition]:
    results: dict[int, Recognition] = {}
    clips: dict[int, Tensor] = {}
    for number in batch:
        features = heard[number]
        try:
            if isinstance(features, InputError):
                raise features
            recognizer.prompt_ids(features.shape[1], languages(number))
            clips[number] = features
        except InputError as error:
            results[number] = Recognition(error=str(error))
    if clips:
        prompts = recognizer.prompts(list(clips.values()), [languages(number) for number in clips])
        written = write(recognizer, prompts.to(recognizer.device), max_new_tokens=settings.max_new_tokens)
        for number, tokens, stopped in zip(clips, written.tokens, written.stopped.tolist(), strict=True):
            raw = recognizer.transcript_text(tokens)
            results[number] = Recognition(raw, clean_transcript(raw), len(tokens), stopped)
    return results
