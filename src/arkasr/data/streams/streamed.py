"""A dataset of the `datasets` library as batches without end, streamed: read in order, a pool at a time, never whole.

Its files are dealt out to lanes, whose number depends on the dataset and the step and not on the processes. Batch by
batch a step goes through the lanes, so that every process opens only those of its own batches. Knows nothing of models.
"""

import itertools
import json
import random
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.languages import canonical_language
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.manifest import Utterance
from arkasr.data.streams.dataset_source import DatasetSource, count_of, open_dataset
from arkasr.data.streams.pool_files import PoolFiles, add_audio
from arkasr.errors import InputError
from arkasr.prefetch import prefetch

POOL_EXAMPLES = 1_024  # of a lane, whose audio lies in a temporary file until its batches have been heard
UNMEASURED_SECONDS = 1.0  # taken for the length of audio that cannot be measured, until hearing it says why


@dataclass(frozen=True)
class LanePosition:
    """Where the next batch of a lane stands.

    Attributes:
        epoch: of the lane, counted from 0.
        pool: in the epoch.
        batch: in the pool.
        examples: of the epoch, before the pool.
        state: the library's own, at the beginning of the pool; None = at the beginning of the epoch.
    """

    epoch: int = 0
    pool: int = 0
    batch: int = 0
    examples: int = 0
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class StreamPosition:
    """Where the next step begins, in the lanes that this process has gone through."""

    lanes: Mapping[int, LanePosition] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pool:
    """Consecutive examples of a lane, read.

    Attributes:
        position: of the first batch that is to be heard.
        batches: all of the pool.
        tar: where the audio lies.
    """

    position: LanePosition
    batches: list[list[Utterance]]
    tar: Path


class StreamedBatches:
    """Batches of a streamed dataset in an order that the number of processes does not change.

    Args:
        source: the dataset.
        per_step: batches in an optimizer step, of all processes together.
        rank: this process.
        processes: among how many.
        check: told every utterance and its seconds; raises InputError if a stage cannot learn from it.
        most_seconds: longer utterances are left out; None = none is.
        labels_withheld: take the text from each.
        exchange: gives every process's text to all.
        batching: `max_audio_seconds` and other keywords of `DurationBatchSampler`.
        seed: with lane and epoch, decides everything random.
        read_ahead: batches of this process that may have been handed out and not been read yet.

    Raises:
        InputError: the library is not installed, or there is no such dataset or column.
    """

    def __init__(
        self,
        source: DatasetSource,
        *,
        per_step: int,
        rank: int,
        processes: int,
        check: Callable[[Utterance, float], None],
        batching: Mapping[str, Any],
        exchange: Callable[[str], list[str]],
        most_seconds: float | None = None,
        labels_withheld: bool = False,
        seed: int = 0,
        read_ahead: int = 1,
    ) -> None:
        self._dataset = open_dataset(source)
        self.examples = count_of(self._dataset, source)
        files = self._dataset.num_shards
        self.lanes = max(count for count in range(1, per_step + 1) if per_step % count == 0 and count <= files)
        self._source = source
        self._per_step = per_step
        self._rank = rank
        self._processes = processes
        self._check = check
        self._batching = batching
        self._exchange = exchange
        self._most_seconds = most_seconds
        self._labels_withheld = labels_withheld
        self._seed = seed
        # Steps are formed whole, and a lane counts the batches of all processes that it is shared with.
        steps = -(-read_ahead // -(-per_step // processes)) + 1
        self._in_flight = steps * per_step // self.lanes

    def follow(self, position: StreamPosition) -> Iterator[tuple[list[Utterance], StreamPosition]]:
        """Batches without end from the beginning of a step on, each with the position behind it.

        The batches of other processes are empty, and their lanes are not read.
        """
        own = {place % self.lanes for place in range(self._rank, self._per_step, self._processes)}
        # Of its own lanes alone: where the others have come to is theirs to say.
        reached = {lane: position.lanes.get(lane, LanePosition()) for lane in own}
        followed = {lane: self._follow_lane(lane, reached[lane]) for lane in own}
        for place in itertools.cycle(range(self._per_step)):
            lane = place % self.lanes
            batch: list[Utterance] = []
            if lane in own:
                batch, reached[lane] = next(followed[lane])
            yield batch if place % self._processes == self._rank else [], StreamPosition(dict(reached))

    def position_of(self, state: Mapping[str, Any]) -> StreamPosition:
        """The position that `state_of` described; without a description, the beginning.

        Raises:
            InputError: it is of a stream with other files, or with other steps.
        """
        if state and state["fingerprint"] != self.fingerprint:
            raise InputError(
                f"dataset {self._source.path}: its files or the batches of a step have changed since the checkpoint; "
                "continue with those of then, or start anew"
            )
        found = {int(lane): LanePosition(**reached) for lane, reached in state.get("reached", {}).items()}
        return StreamPosition(found)

    @property
    def fingerprint(self) -> str:
        """Says how files are dealt to lanes; what is in the files is not known beforehand."""
        return f"{self.lanes} lanes, {self._dataset.num_shards} files, {self.examples} examples"

    def state_of(self, position: StreamPosition) -> dict[str, Any]:
        """JSON-able, of the lanes of all processes; every process must ask."""
        mine = {str(lane): asdict(reached) for lane, reached in position.lanes.items()}
        reached: dict[str, Any] = {}
        for text in self._exchange(json.dumps(mine)):
            reached |= json.loads(text)
        return {"fingerprint": self.fingerprint, "reached": reached}

    def _follow_lane(self, lane: int, position: LanePosition) -> Iterator[tuple[list[Utterance], LanePosition]]:
        files, ended = PoolFiles(self._in_flight), Event()
        # A pool is read while the batches of the one before are heard.
        pools = prefetch(next, itertools.repeat(self._pools(lane, position, files, ended)), 1)
        try:
            for pool in pools:
                for place in range(pool.position.batch, len(pool.batches)):
                    files.count_batch()
                    yield pool.batches[place], replace(pool.position, batch=place + 1)
                files.used(pool.tar)
        finally:
            ended.set()  # before `pools` is closed, which waits for what is being read

    def _pools(self, lane: int, position: LanePosition, files: PoolFiles, ended: Event) -> Iterator[_Pool]:
        """The pools of a lane without end, or until nobody wants them any more; an epoch's last one may be empty."""
        while True:
            dataset = self._dataset.shard(num_shards=self.lanes, index=lane)
            if position.state is not None:
                dataset.load_state_dict(position.state)
            examples = iter(dataset)
            heard = position.examples > 0
            while True:
                read: list[Utterance] = []
                path = files.new()
                with tarfile.open(path, "w") as tar:
                    for example in itertools.islice(examples, POOL_EXAMPLES):
                        if ended.is_set():
                            return
                        place = f"{lane}/{position.examples + len(read)}"
                        audio = add_audio(tar, path, self._audio_of(example, place))
                        read.append(self._utterance_of(example, audio, place))
                utterances, seconds = self._kept(read)
                heard = heard or bool(utterances)
                yield _Pool(position, self._batches_of(utterances, seconds, lane, position), path)
                if len(read) < POOL_EXAMPLES:
                    break
                position = LanePosition(
                    position.epoch, position.pool + 1, 0, position.examples + len(read), dataset.state_dict()
                )
            if not heard:
                raise InputError(f"dataset {self._source.path}: lane {lane} has no utterance that is not left out")
            position = LanePosition(position.epoch + 1)

    def _batches_of(
        self, utterances: Sequence[Utterance], seconds: Sequence[float], lane: int, position: LanePosition
    ) -> list[list[Utterance]]:
        seed = random.Random(f"{self._seed}:{lane}:{position.epoch}").getrandbits(32)
        sampler = DurationBatchSampler(seconds, seed=seed, **_counted(self._batching, utterances))
        return [[utterances[place] for place in batch] for batch in sampler.batches(position.pool)]

    def _kept(self, read: Sequence[Utterance]) -> tuple[list[Utterance], list[float]]:
        """The utterances that are not left out, and their seconds."""
        utterances, lengths = [], []
        for utterance in read:
            try:
                seconds = seconds_of(utterance)
            except InputError:
                seconds = UNMEASURED_SECONDS
            if self._most_seconds is not None and seconds > self._most_seconds:
                continue
            self._check(utterance, seconds)
            utterances.append(utterance)
            lengths.append(seconds)
        return utterances, lengths

    def _audio_of(self, example: Mapping[str, Any], place: str) -> bytes:
        audio = example[self._source.audio]
        content = audio.get("bytes") if isinstance(audio, Mapping) else audio
        if isinstance(content, bytes):
            return content
        path = audio.get("path") if isinstance(audio, Mapping) else audio
        if isinstance(path, str) and Path(path).is_file():
            return Path(path).read_bytes()
        raise self._wrong(place, f"column {self._source.audio!r} holds no audio file")

    def _utterance_of(self, example: Mapping[str, Any], audio: Path, place: str) -> Utterance:
        source = self._source
        text = self._string(example, source.text, place) if not self._labels_withheld else None
        language = self._string(example, source.language_column, place) or source.language
        try:
            language = canonical_language(language) if language else None
        except InputError as error:
            raise self._wrong(place, str(error)) from error
        name = example[source.id] if source.id is not None else place
        if not isinstance(name, str | int) or name == "":
            raise self._wrong(place, f"column {source.id!r} holds {name!r}; an id is a string or a whole number")
        kept = {name: value for name, value in example.items() if name not in (source.audio, source.text)}
        return Utterance(
            audio=audio,
            text=text,
            begin_time=None,
            end_time=None,
            language=language,
            id=str(name),
            speaker=None,
            duration=None,
            fields=kept if text is None else kept | {"text": text},
        )

    def _string(self, example: Mapping[str, Any], column: str | None, place: str) -> str | None:
        value = example[column] if column is not None else None
        if value is not None and not isinstance(value, str):
            raise self._wrong(place, f"column {column!r} holds {value!r}, which is no string; name another column")
        return value

    def _wrong(self, place: str, what: str) -> InputError:
        return InputError(f"dataset {self._source.path}: row {place}: {what}")


def _counted(batching: Mapping[str, Any], utterances: Sequence[Utterance]) -> dict[str, Any]:
    """Keywords of the sampler, the tokens of these utterances' texts counted where they count."""
    count = batching.get("text_tokens")
    return {**batching, "text_tokens": count(utterances) if count is not None else None}
