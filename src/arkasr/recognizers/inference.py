"""Transcription of many clips by a recogniser: batches by duration, features prefetched while an accelerator decodes.

In: a recogniser, and utterances or a function that gives features. Out: the text of each clip. A clip whose audio
cannot be read gets an error and does not stop the others. Files and references are left to others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import ExampleDataset, FeatureCache
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.slices import version_of
from arkasr.errors import InputError
from arkasr.prefetch import prefetch
from arkasr.recognizers.decoding import Transcripts, decode
from arkasr.recognizers.engine import Engine
from arkasr.recognizers.journal import Journal
from arkasr.recognizers.recognition import Recognition
from arkasr.recognizers.recognizer import Recognizer
from arkasr.recognizers.text import clean_transcript

BATCHES_AHEAD = 2


@dataclass(frozen=True)
class RecognitionSettings:
    """Size of a batch and cap on a transcript.

    Attributes:
        batch_seconds: seconds of audio in a batch, padding included.
        max_new_tokens: cap on the tokens of a transcript.
        batch_clips: cap on the clips in a batch; None = no cap.
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
    """Transcribe clips, the longest first, and yield the results of each batch as soon as it is done.

    Args:
        recognizer: decodes greedily; its model is put into eval mode.
        seconds: length of every clip, by its number.
        features: log-mel float32 `[mels, T]` of a clip. May run in another thread. May raise InputError.
        languages: language of a clip, for a family whose prompt names it.
        settings: batch size and cap.
        engine: writes the transcripts; None = `decode`, in this process.
    """
    recognizer.model.eval()
    numbers = list(seconds)
    sampler = DurationBatchSampler(
        list(seconds.values()),
        max_audio_seconds=max([settings.batch_seconds, recognizer.window_seconds, *seconds.values()]),
        window_seconds=recognizer.window_seconds,
        max_utterances=settings.batch_clips,
        shuffle=False,
    )
    batches = [[numbers[index] for index in batch] for batch in sampler.batches(epoch=0)]

    def load(batch: list[int]) -> dict[int, Tensor | InputError]:
        return {number: _features_or_error(features, number) for number in batch}

    # On the CPU a second thread would compete with the model for cores and cost more than it saves.
    loaded = map(load, batches) if recognizer.device.type == "cpu" else prefetch(load, batches, BATCHES_AHEAD)
    for found in loaded:
        yield _recognize_batch(recognizer, found, languages, settings, engine or decode)


def recognize(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    settings: RecognitionSettings,
    *,
    engine: Engine | None = None,
    feature_cache: FeatureCache | None = None,
    journal: Journal | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Recognition]:
    """Transcribe every utterance of a manifest.

    Args:
        recognizer: decodes greedily; its model is put into eval mode.
        utterances: the results have the same order.
        settings: batch size and cap.
        engine: writes the transcripts; None = `decode`, in this process.
        feature_cache: features already computed.
        journal: stores finished utterances, so that an interrupted command can continue.
        on_batch: called with the number of utterances that need no decoding, and then of each batch.
    """
    dataset = ExampleDataset(utterances, {recognizer.frontend: recognizer.features}, feature_cache)
    results: list[Recognition] = [Recognition()] * len(utterances)
    seconds = {}
    keys = {}
    for index, utterance in enumerate(utterances):
        try:
            if journal:
                keys[index] = _key_of(utterance)
                if finished := journal.get(keys[index]):
                    results[index] = finished
                    continue
            seconds[index] = seconds_of(utterance)
        except InputError as error:
            results[index] = Recognition(error=str(error))
    if on_batch and len(seconds) < len(utterances):
        on_batch(len(utterances) - len(seconds))
    batches = recognize_clips(
        recognizer,
        seconds,
        lambda index: dataset[index].features[recognizer.frontend],
        lambda index: utterances[index].language,
        settings,
        engine,
    )
    for batch in batches:
        for index, recognition in batch.items():
            results[index] = recognition
        if journal:
            journal.add({keys[index]: found for index, found in batch.items() if found.error is None})
        if on_batch:
            on_batch(len(batch))
    return results


def _key_of(utterance: Utterance) -> str:
    """A string that differs between pieces of audio, and changes when the file or the language changes.

    Raises:
        InputError: the file does not exist.
    """
    return f"{version_of(utterance.audio)}:{utterance.begin_time}:{utterance.end_time}:{utterance.language}"


def _features_or_error(features: Callable[[int], Tensor], number: int) -> Tensor | InputError:
    try:
        return features(number)
    except InputError as error:
        return error


def _recognize_batch(
    recognizer: Recognizer,
    loaded: Mapping[int, Tensor | InputError],
    languages: Callable[[int], str | None],
    settings: RecognitionSettings,
    write: Callable[..., Transcripts],
) -> dict[int, Recognition]:
    results: dict[int, Recognition] = {}
    clips: dict[int, Tensor] = {}
    for number, features in loaded.items():
        try:
            if isinstance(features, InputError):
                raise features
            recognizer.prompt_text(languages(number))
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
