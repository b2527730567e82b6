"""A recogniser over a list of utterances: what it wrote for each, in the order given.

Batches by duration; an utterance that cannot be heard is reported and does not stop the rest. Knows no references.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.examples import Example, ExampleDataset, FeatureMemory, seconds_of
from arkasr.data.manifest import Utterance
from arkasr.errors import InputError
from arkasr.model.decoding import decode_greedily
from arkasr.model.recognizer import Recognizer
from arkasr.model.text import clean_transcript


@dataclass(frozen=True)
class Recognition:
    """What a recogniser made of one utterance.

    Attributes:
        raw: the text as generated, control tokens kept; None when the utterance failed.
        text: the cleaned text; None when the utterance failed.
        tokens: generated tokens, the stop token included.
        stopped: False when the cap on tokens was reached first.
        error: why the utterance failed.
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
        batch_seconds: audio seconds in a batch, padding included.
        max_new_tokens: cap on the tokens of a transcript.
    """

    batch_seconds: float = 120.0
    max_new_tokens: int = 256


def recognize(
    recognizer: Recognizer,
    utterances: Sequence[Utterance],
    settings: RecognitionSettings,
    *,
    memory: FeatureMemory | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[Recognition]:
    """Transcribe every utterance.

    Args:
        recognizer: decodes greedily; its model is put into eval mode.
        utterances: in the order in which results are returned.
        settings: batch size and cap.
        memory: features already computed.
        on_batch: told the number of utterances just done.
    """
    recognizer.model.eval()
    dataset = ExampleDataset(utterances, {recognizer.listener: recognizer.features}, memory)
    results: list[Recognition] = [Recognition()] * len(utterances)
    durations = {}
    for place, utterance in enumerate(utterances):
        try:
            durations[place] = seconds_of(utterance)
        except InputError as error:
            results[place] = Recognition(error=str(error))
    places = list(durations)
    budget = max([settings.batch_seconds, *durations.values()])
    batches = DurationBatchSampler(list(durations.values()), max_audio_seconds=budget, shuffle=False)
    for batch in batches:
        heard: dict[int, Example] = {}
        for place in (places[item] for item in batch):
            try:
                example = dataset[place]
                recognizer.prompt_ids(example.features[recognizer.listener].shape[1], example.utterance.language)
                heard[place] = example
            except InputError as error:
                results[place] = Recognition(error=str(error))
        if heard:
            features = [example.features[recognizer.listener] for example in heard.values()]
            languages = [example.utterance.language for example in heard.values()]
            prompts = recognizer.prompts(features, languages).to(recognizer.device)
            written = decode_greedily(recognizer, prompts, max_new_tokens=settings.max_new_tokens)
            for place, tokens, stopped in zip(heard, written.tokens, written.stopped.tolist(), strict=True):
                raw = recognizer.transcript_text(tokens)
                results[place] = Recognition(raw, clean_transcript(raw), len(tokens), stopped)
        if on_batch:
            on_batch(len(batch))
    return results
