"""Endless batches from a dataset of the `datasets` library, which is read in order, one pool at a time.

The dataset is divided into lanes: groups of files that are read independently, each in order. The number of lanes
depends on the dataset and the batches per step, not on the number of processes. The batches of a step alternate between
the lanes, and a process reads only the lanes of its own batches. Does not know models.
"""

import itertools
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
from arkasr.data.streams.dataset_source import DatasetSource, example_count, open_dataset
from arkasr.data.streams.pool_files import PoolFiles, add_audio
from arkasr.errors import InputError
from arkasr.prefetch import prefetch

# Examples that a lane reads at once. Their audio stays in a temporary file until their batches have been read.
POOL_EXAMPLES = 1_024
UNMEASURED_SECONDS = 1.0  # assumed if audio cannot be measured; decoding it later reports the error


@dataclass(frozen=True)
class LanePosition:
    """Position of a lane's next batch; all numbers count from 0.

    Attributes:
        epoch: number of the epoch.
        pool: number in the epoch.
        batch: number in the pool.
        examples: examples of this epoch that were read before the pool.
        state: the library's state at the start of the pool; None = start of the epoch.
    """

    epoch: int = 0
    pool: int = 0
    batch: int = 0
    examples: int = 0
    state: dict[str, Any] | None = None


@dataclass(frozen=True)
class StreamPosition:
    """Position of the next batch, for the lanes that this process reads.

    Attributes:
        lanes: positions by lane.
        epoch: of the batch before this position, if this process reads it. It is not saved.
    """

    lanes: Mapping[int, LanePosition] = field(default_factory=dict)
    epoch: int = 0


@dataclass(frozen=True)
class _Pool:
    """Consecutive examples of a lane, in batches.

    Attributes:
        position: of the first batch to yield.
        batches: all batches of the pool.
        tar: holds the audio.
    """

    position: LanePosition
    batches: list[list[Utterance]]
    tar: Path


class StreamedBatches:
    """Batches of a streamed dataset; their order does not depend on the number of processes.

    Args:
        source: the dataset.
        batches_per_step: batches per optimizer step, over all processes.
        rank: of this process.
        processes: number of processes.
        check_utterance: called with every utterance and its seconds; raises InputError if the stage cannot train on it.
        max_seconds: longer utterances are dropped; None = no limit.
        labels_withheld: remove the text of every utterance.
        all_gather: the JSON-able value of every process, by rank.
        batching: `max_audio_seconds` and other keywords of `DurationBatchSampler`; `text_tokens` is a function that
            counts the tokens of a list of utterances.
        seed: together with lane and epoch, determines all randomness.
        read_ahead: how many of the batches yielded for this process the consumer may still have to read.

    Raises:
        InputError: the library is not installed, or the dataset or a column does not exist.
    """

    def __init__(
        self,
        source: DatasetSource,
        *,
        batches_per_step: int,
        rank: int,
        processes: int,
        check_utterance: Callable[[Utterance, float], None],
        batching: Mapping[str, Any],
        all_gather: Callable[[Any], list[Any]],
        max_seconds: float | None = None,
        labels_withheld: bool = False,
        seed: int = 0,
        read_ahead: int = 1,
    ) -> None:
        self._dataset = open_dataset(source)
        self.examples = example_count(self._dataset, source)
        files = self._dataset.num_shards
        self.lanes = max(
            count for count in range(1, batches_per_step + 1) if batches_per_step % count == 0 and count <= files
        )
        self._source = source
        self._batches_per_step = batches_per_step
        self._rank = rank
        self._processes = processes
        self._check_utterance = check_utterance
        self._batching = batching
        self._all_gather = all_gather
        self._max_seconds = max_seconds
        self._labels_withheld = labels_withheld
        self._seed = seed
        # The consumer takes a whole step before it reads any audio, so `read_ahead` is rounded up to whole steps, plus
        # one. A lane counts all its batches, those of other processes too.
        steps = -(-read_ahead // -(-batches_per_step // processes)) + 1
        self._in_flight = steps * batches_per_step // self.lanes

    def batches_from(self, position: StreamPosition) -> Iterator[tuple[list[Utterance], StreamPosition]]:
        """Endless batches from the start of a step, each with the position after it.

        The batches of other processes are empty; lanes that only they use are not read.
        """
        own_lanes = {number % self.lanes for number in range(self._rank, self._batches_per_step, self._processes)}
        # The other lanes' positions are left to the processes that read them.
        positions = {lane: position.lanes.get(lane, LanePosition()) for lane in own_lanes}
        lane_batches = {lane: self._lane_batches(lane, positions[lane]) for lane in own_lanes}
        for number in itertools.cycle(range(self._batches_per_step)):
            lane = number % self.lanes
            batch: list[Utterance] = []
            if lane in own_lanes:
                batch, positions[lane] = next(lane_batches[lane])
            reached = StreamPosition(dict(positions), positions[lane].epoch if lane in own_lanes else 0)
            yield batch if number % self._processes == self._rank else [], reached

    def position_from_state(self, state: Mapping[str, Any]) -> StreamPosition:
        """The position saved by `state_dict`; the beginning if `state` is empty.

        Raises:
            InputError: the files of the dataset or the batches per step have changed.
        """
        if state and state["fingerprint"] != self.fingerprint:
            raise InputError(
                f"dataset {self._source.path}: its files or the number of batches in a step (`accumulation`) have "
                "changed since the checkpoint; restore them, or train in another folder"
            )
        lanes = {int(lane): LanePosition(**saved) for lane, saved in state.get("reached", {}).items()}
        return StreamPosition(lanes)

    @property
    def fingerprint(self) -> str:
        """Describes how files are divided among lanes; the content of the files is not known in advance."""
        return f"{self.lanes} lanes, {self._dataset.num_shards} files, {self.examples} examples"

    def state_dict(self, position: StreamPosition) -> dict[str, Any]:
        """The positions of all processes' lanes as JSON values; every process must call it."""
        own = {str(lane): asdict(lane_position) for lane, lane_position in position.lanes.items()}
        positions: dict[str, Any] = {}
        for lanes in self._all_gather(own):
            positions |= lanes
        return {"fingerprint": self.fingerprint, "reached": positions}

    def _lane_batches(self, lane: int, position: LanePosition) -> Iterator[tuple[list[Utterance], LanePosition]]:
        files, stopped = PoolFiles(self._in_flight), Event()
        # The next pool is read while the batches of this one are yielded.
        pools = prefetch(next, itertools.repeat(self._pools(lane, position, files, stopped)), 1)
        try:
            for pool in pools:
                for number in range(pool.position.batch, len(pool.batches)):
                    files.count_batch()
                    yield pool.batches[number], replace(pool.position, batch=number + 1)
                files.finish(pool.tar)
        finally:
            stopped.set()  # before `pools` is closed, which waits for the pool that is being read

    def _pools(self, lane: int, position: LanePosition, files: PoolFiles, stopped: Event) -> Iterator[_Pool]:
        """The pools of a lane, epoch after epoch, until `stopped`; the last pool of an epoch may be empty."""
        while True:
            dataset = self._dataset.shard(num_shards=self.lanes, index=lane)
            if position.state is not None:
                dataset.load_state_dict(position.state)
            examples = iter(dataset)
            any_usable = position.examples > 0
            while True:
                path = files.new_path()
                read = self._read_pool(examples, path, lane, position, stopped)
                if stopped.is_set():
                    return
                utterances, seconds = self._filter_by_duration(read)
                any_usable = any_usable or bool(utterances)
                yield _Pool(position, self._form_batches(utterances, seconds, lane, position), path)
                if len(read) < POOL_EXAMPLES:
                    break
                position = LanePosition(
                    position.epoch, position.pool + 1, 0, position.examples + len(read), dataset.state_dict()
                )
            if not any_usable:
                missing = "examples; leave out empty files"
                if position.examples + len(read):
                    missing = "utterance of at most `max_seconds`; raise it"
                raise InputError(f"dataset {self._source.path}: part {lane + 1} of its files has no {missing}")
            position = LanePosition(position.epoch + 1)

    def _read_pool(
        self, examples: Iterator[Mapping[str, Any]], path: Path, lane: int, position: LanePosition, stopped: Event
    ) -> list[Utterance]:
        """Reads the examples of a pool and writes their audio to a tar at `path`; incomplete if `stopped`."""
        utterances: list[Utterance] = []
        with tarfile.open(path, "w") as tar:
            for number, example in enumerate(itertools.islice(examples, POOL_EXAMPLES), start=position.examples):
                if stopped.is_set():
                    break
                row = f"{lane}/{number}"
                audio = add_audio(tar, path, self._audio_bytes(example, row))
                utterances.append(self._to_utterance(example, audio, row))
        return utterances

    def _form_batches(
        self, utterances: Sequence[Utterance], seconds: Sequence[float], lane: int, position: LanePosition
    ) -> list[list[Utterance]]:
        batching = dict(self._batching)
        if count_tokens := batching.get("text_tokens"):
            batching["text_tokens"] = count_tokens(utterances)
        seed = random.Random(f"{self._seed}:{lane}:{position.epoch}").getrandbits(32)
        sampler = DurationBatchSampler(seconds, seed=seed, **batching)
        return [[utterances[index] for index in batch] for batch in sampler.batches(position.pool)]

    def _filter_by_duration(self, read: Sequence[Utterance]) -> tuple[list[Utterance], list[float]]:
        """Drop utterances longer than `max_seconds` and check the others; returns those and their durations."""
        utterances, durations = [], []
        for utterance in read:
            try:
                seconds = seconds_of(utterance)
            except InputError:
                seconds = UNMEASURED_SECONDS
            if self._max_seconds is not None and seconds > self._max_seconds:
                continue
            self._check_utterance(utterance, seconds)
            utterances.append(utterance)
            durations.append(seconds)
        return utterances, durations

    def _audio_bytes(self, example: Mapping[str, Any], row: str) -> bytes:
        audio = example[self._source.audio]
        content = audio.get("bytes") if isinstance(audio, Mapping) else audio
        if isinstance(content, bytes):
            return content
        path = audio.get("path") if isinstance(audio, Mapping) else audio
        if isinstance(path, str) and Path(path).is_file():
            return Path(path).read_bytes()
        raise self._row_error(row, f"column {self._source.audio!r} holds no audio file; name another column")

    def _to_utterance(self, example: Mapping[str, Any], audio: Path, row: str) -> Utterance:
        source = self._source
        text = self._string(example, source.text, row) if not self._labels_withheld else None
        language = self._string(example, source.language_column, row) or source.language
        try:
            language = canonical_language(language) if language else None
        except InputError as error:
            raise self._row_error(row, str(error)) from error
        identity = example[source.id] if source.id is not None else row
        if not isinstance(identity, str | int) or identity == "":
            raise self._row_error(row, f"column {source.id!r} holds {identity!r}; an id is a string or a whole number")
        fields = {name: value for name, value in example.items() if name not in (source.audio, source.text)}
        return Utterance(
            audio=audio,
            text=text,
            begin_time=None,
            end_time=None,
            language=language,
            id=str(identity),
            speaker=None,
            duration=None,
            fields=fields if text is None else fields | {"text": text},
        )

    def _string(self, example: Mapping[str, Any], column: str | None, row: str) -> str | None:
        value = example[column] if column is not None else None
        if value is not None and not isinstance(value, str):
            raise self._row_error(row, f"column {column!r} holds {value!r}, which is not a string; name another column")
        return value

    def _row_error(self, row: str, problem: str) -> InputError:
        return InputError(f"dataset {self._source.path}: row {row}: {problem}")
