import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from arkasr import locks, scratch
from arkasr.data.audio import decode_audio
from arkasr.data.examples import ExampleDataset, IdentityLookup
from arkasr.data.streams import streamed as streamed_module
from arkasr.data.streams.dataset_source import DatasetSource
from arkasr.data.streams.streamed import StreamedBatches, StreamPosition
from arkasr.errors import InputError
from arkasr.train.stream import BatchStream

pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

PER_STEP = 4
FILES, ROWS = 6, 11


def sound(seed, seconds):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(seed).normal(size=int(seconds * 16_000)) * 0.1, 16_000, format="FLAC")
    return buffer.getvalue()


def write_parquet(path, rows):
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """66 utterances of 0.3 to 0.95 s in six parquet files with three row groups each."""
    root = tmp_path_factory.mktemp("corpus") / "parquet"
    for file in range(FILES):
        rows = []
        for place in range(file * ROWS, (file + 1) * ROWS):
            audio = {"bytes": sound(place, 0.3 + 0.01 * (place * 29 % 66)), "path": f"{place}.flac"}
            rows.append(
                {"audio": audio, "text": f"text {place}", "name": f"utt-{place}", "lang": ["en", "zh"][place % 2]}
            )
        write_parquet(root / f"train-{file:05d}.parquet", rows)
    return root


@pytest.fixture(autouse=True)
def small_pools(monkeypatch):
    monkeypatch.setattr(streamed_module, "POOL_EXAMPLES", 8)


def batches_of(folder, rank=0, processes=1, **changes):
    options = {
        "batches_per_step": PER_STEP,
        "rank": rank,
        "processes": processes,
        "check_utterance": lambda utterance, seconds: None,
        "batching": {"max_audio_seconds": 2.0},
        "all_gather": lambda value: [value],
        "seed": 1,
        "read_ahead": 12,
    }
    source = DatasetSource(path=str(folder), id="name", language_column="lang", examples=66)
    return StreamedBatches(changes.pop("source", source), **(options | changes))


def ids(batches, count):
    return [[item.id for item in batch] for batch, _ in itertools.islice(batches, count)]


def epoch_of(batches):
    """Batches of the first epoch, by lane."""
    found = {}
    produced = batches.batches_from(StreamPosition())
    for place, (batch, reached) in enumerate(produced):
        lane = place % batches.lanes
        if reached.lanes[lane].epoch == 0:
            found.setdefault(lane, []).append(batch)
        elif all(lane.epoch for lane in reached.lanes.values()):
            break
    return found


def test_an_epoch_has_every_utterance_of_the_dataset_once(folder):
    lanes = epoch_of(batches_of(folder))
    assert len(lanes) == PER_STEP
    items = [item for lane in lanes.values() for batch in lane for item in batch]
    assert sorted(item.id for item in items) == sorted(f"utt-{place}" for place in range(FILES * ROWS))
    assert {item.language for item in items} == {"English", "Chinese"}
    assert all(item.text == item.id.replace("utt-", "text ") for item in items)
    assert all(item.fields == {"name": item.id, "lang": item.fields["lang"], "text": item.text} for item in items)


def test_audio_equals_the_dataset_s_as_long_as_it_may_be_read(folder):
    produced = batches_of(folder).batches_from(StreamPosition())
    late = []
    for batch, _ in itertools.islice(produced, 200):
        late.append(batch)
        for item in late.pop(0) if len(late) == 12 else []:
            place = int(item.id.removeprefix("utt-"))
            expected, _ = soundfile.read(io.BytesIO(sound(place, 0.3 + 0.01 * (place * 29 % 66))), dtype="float32")
            assert np.array_equal(decode_audio(item.audio), expected)


@pytest.mark.parametrize("read_ahead", [1, 6, 17])
def test_a_lane_that_processes_share_keeps_audio_until_each_has_read_its_own(folder, read_ahead):
    batches = batches_of(folder, batches_per_step=8, rank=3, processes=8, read_ahead=read_ahead)
    assert batches.lanes < 8
    late = []
    for place, (batch, _) in enumerate(itertools.islice(batches.batches_from(StreamPosition()), 640)):
        if place % 8 == 3:
            late.append(batch)
        # All batches of a step are formed before any is read.
        while place % 8 == 7 and len(late) > read_ahead:
            assert all(len(decode_audio(item.audio)) for item in late.pop(0))


def test_files_of_finished_pools_are_removed(folder):
    batches = batches_of(folder, batches_per_step=1, read_ahead=2)
    most = 0
    for batch, _ in itertools.islice(batches.batches_from(StreamPosition()), 300):
        most = max(most, len(list(batch[0].audio.parent.glob("*.tar"))))
    # Tars of two batches in flight, of the next pool, and of the pool after it, which is read ahead.
    assert most <= 4


def wait_until(holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_exactly_one_pool_is_read_ahead(folder, monkeypatch):
    read = []
    original = StreamedBatches._audio_bytes
    monkeypatch.setattr(StreamedBatches, "_audio_bytes", lambda *its: (read.append(its), original(*its))[1])
    produced = batches_of(folder, batches_per_step=1).batches_from(StreamPosition())
    next(produced)
    wait_until(lambda: len(read) == 16)
    time.sleep(0.1)
    assert len(read) == 16


def test_an_error_in_the_next_pool_is_raised_when_it_is_reached(folder):
    def refuse_the_tenth(utterance, seconds):
        if utterance.id == "utt-10":
            raise InputError("utt-10 is wrong")

    def first_pool(check):
        batches = batches_of(folder, batches_per_step=1, check_utterance=check)
        for batch, reached in batches.batches_from(StreamPosition()):
            if reached.lanes[0].pool:
                return
            yield [item.id for item in batch]

    whole = list(first_pool(lambda utterance, seconds: None))
    found = first_pool(refuse_the_tenth)
    assert list(itertools.islice(found, len(whole))) == whole
    with pytest.raises(InputError, match="utt-10 is wrong"):
        next(found)


SLOW = """
import itertools, signal, sys, time
from arkasr.data.streams import streamed
from arkasr.data.streams.dataset_source import DatasetSource

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore SIGINT for background jobs
streamed.POOL_EXAMPLES = 50
read = itertools.count()
original = streamed.StreamedBatches._audio_bytes
streamed.StreamedBatches._audio_bytes = lambda *its: (time.sleep(2 * (next(read) >= 50)), original(*its))[1]
batches = streamed.StreamedBatches(
    DatasetSource(path=sys.argv[1], examples=66), batches_per_step=1, rank=0, processes=1,
    check_utterance=lambda *its: None, batching={"max_audio_seconds": 2.0}, all_gather=lambda value: [value],
)

def read_batches():
    for batch, _ in batches.batches_from(streamed.StreamPosition()):
        print(batch[0].audio, flush=True)
        time.sleep(0.2)

try:
    read_batches()
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def slow(folder, tmp_path):
    """A process that reads ahead slowly, and the tar of the pool it yields."""
    environment = {"TMPDIR": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        tar = Path(process.stdout.readline().split(":")[0])
        assert tar.is_file()
        yield process, tar
        process.kill()


def test_a_keyboard_interrupt_does_not_wait_for_the_next_pool(slow, tmp_path):
    process, tar = slow
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130  # the other examples of the next pool take half a minute
    assert not tar.exists()
    assert not list(tmp_path.glob("arkasr-scratch-*"))


def test_a_folder_without_a_lock_file_is_not_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cleaned = tmp_path / f"{scratch.PREFIX}cleaned"
    cleaned.mkdir()
    scratch._own_folder.cache_clear()
    assert scratch.scratch_folder() != cleaned
    assert cleaned.is_dir()
    scratch._own_folder.cache_clear()


def test_a_file_system_without_locks_is_accepted(tmp_path, monkeypatch):
    def refuse(file, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(locks.fcntl, "lockf", refuse)
    scratch._own_folder.cache_clear()
    assert scratch.scratch_folder().is_dir()
    scratch._own_folder.cache_clear()


def test_the_next_process_removes_files_of_a_killed_one_and_keeps_those_in_use(slow, tmp_path, monkeypatch):
    process, tar = slow
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def start_again():
        scratch._own_folder.cache_clear()
        return scratch.scratch_folder()

    mine = start_again()
    assert tar.is_file()
    process.kill()
    process.wait()
    assert tar.is_file()
    mine = start_again()
    assert list(tmp_path.glob("arkasr-scratch-*")) == [mine]
    scratch._own_folder.cache_clear()


def test_every_position_is_resumed_exactly(folder):
    whole = ids(batches_of(folder).batches_from(StreamPosition()), 160)
    positions = [reached for _, reached in itertools.islice(batches_of(folder).batches_from(StreamPosition()), 160)]
    for step in (1, 2, 3, 7, 12, 20, 31):
        batches = batches_of(folder)
        state = json.loads(json.dumps(batches.state_dict(positions[step * PER_STEP - 1])))
        resumed = ids(batches.batches_from(batches.position_from_state(state)), 24)
        assert resumed == whole[step * PER_STEP : step * PER_STEP + 24]


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_all_processes_see_one_order_and_read_only_their_lanes(folder, processes, monkeypatch):
    whole = ids(batches_of(folder).batches_from(StreamPosition()), 80)
    read = []
    original = StreamedBatches._lane_batches
    monkeypatch.setattr(
        StreamedBatches,
        "_lane_batches",
        lambda self, lane, at: (read.append((self._rank, lane)), original(self, lane, at))[1],
    )
    shares = [ids(batches_of(folder, rank, processes).batches_from(StreamPosition()), 80) for rank in range(processes)]
    for place, expected in enumerate(whole):
        assert [share[place] for share in shares] == [
            expected if place % PER_STEP % processes == rank else [] for rank in range(processes)
        ]
    assert len(read) == PER_STEP


def test_a_run_on_two_processes_continues_on_one_after_several_resumes(folder):
    whole = ids(batches_of(folder).batches_from(StreamPosition()), 60)
    state, place = {}, 0
    for steps in (5, 2, 1):
        state = state_of_two(folder, state, steps)
        place += steps * PER_STEP
        alone = batches_of(folder)
        assert ids(alone.batches_from(alone.position_from_state(state)), 24) == whole[place : place + 24]


def state_of_two(folder, state, steps):
    """The state of two processes that continue from a state, after `steps` steps."""
    positions = []
    for rank in (0, 1):
        batches = batches_of(folder, rank, 2)
        produced = batches.batches_from(batches.position_from_state(state))
        positions.append([reached for _, reached in itertools.islice(produced, steps * PER_STEP)][-1])
    values = [None, None]
    barrier = threading.Barrier(2)

    def exchange(rank):
        def gather(value):
            values[rank] = value
            barrier.wait(10)
            return list(values)

        return gather

    states = [None, None]

    def save(rank):
        states[rank] = batches_of(folder, rank, 2, all_gather=exchange(rank)).state_dict(positions[rank])

    threads = [threading.Thread(target=save, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states[0] == states[1]
    return states[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_stream_reads_it_with_and_without_workers(folder, student, workers):
    def stream():
        batches = batches_of(folder, read_ahead=2 * workers + 1)
        dataset = ExampleDataset(IdentityLookup(66), {student.frontend: student.features})
        return BatchStream(dataset, batches, batches_per_step=PER_STEP, workers=workers)

    items = list(itertools.islice(stream(), 10 * PER_STEP))
    assert [[item.utterance.id for item in batch] for batch in items] == ids(
        batches_of(folder).batches_from(StreamPosition()), 10 * PER_STEP
    )
    interrupted = stream()
    list(itertools.islice(interrupted, 6 * PER_STEP))
    resumed = stream()
    resumed.restore(json.loads(json.dumps(interrupted.state())))
    for expected, found in zip(items[6 * PER_STEP :], resumed, strict=False):
        for left, right in zip(expected, found, strict=True):
            assert left.utterance.id == right.utterance.id
            assert torch.equal(left.features[student.frontend], right.features[student.frontend])


def test_unreadable_audio_is_reported_when_it_is_decoded(tmp_path, student):
    audio = [b"not audio", *(sound(place, 0.5) for place in range(3))]
    write_parquet(tmp_path / "corpus" / "0.parquet", [{"audio": {"bytes": content}, "text": "a"} for content in audio])
    batches = batches_of(tmp_path / "corpus", source=DatasetSource(path=str(tmp_path / "corpus"), examples=4))
    stream = BatchStream(
        ExampleDataset(IdentityLookup(4), {student.frontend: student.features}), batches, batches_per_step=PER_STEP
    )
    list(itertools.islice(stream, PER_STEP))
    unreadable = stream.take_unreadable()
    assert {item.id for item in unreadable} == {"0/0"}
    assert "not audio that can be read" in unreadable[0].reason


def test_long_utterances_are_left_out_and_labels_withheld(folder):
    lanes = epoch_of(batches_of(folder, max_seconds=0.5, labels_withheld=True))
    items = [item for lane in lanes.values() for batch in lane for item in batch]
    assert {item.id for item in items} == {
        f"utt-{place}" for place in range(66) if 0.3 + 0.01 * (place * 29 % 66) <= 0.5
    }
    assert "text" not in repr(items).replace("text=None", "")


def test_the_token_budget_limits_batches(folder):
    batching = {
        "max_audio_seconds": 9.0,
        "text_tokens": lambda utterances: [len(item.text) for item in utterances],
        "max_text_tokens": 21,
    }
    for batch, _ in itertools.islice(batches_of(folder, batching=batching).batches_from(StreamPosition()), 80):
        assert len(batch) * max(len(item.text) for item in batch) <= 21


BAD_ROWS = {
    "no id": ({"name": None}, "column 'name' holds None; an id is a string or a whole number"),
    "text": ({"text": ["a"]}, r"column 'text' holds \['a'\], which is not a string; name another column"),
    "language": ({"lang": 3}, "column 'lang' holds 3, which is not a string; name another column"),
    "audio": (
        {"audio": {"bytes": None, "path": None}},
        "column 'audio' holds no audio file; name another column",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_value_is_named_with_dataset_row_and_column(tmp_path, changes, message):
    row = {"audio": {"bytes": sound(0, 0.5), "path": "a.flac"}, "text": "a", "name": "a", "lang": "en"}
    write_parquet(tmp_path / "corpus" / "0.parquet", [row | changes])
    source = DatasetSource(path=str(tmp_path / "corpus"), examples=1, id="name", language_column="lang")
    with pytest.raises(InputError, match=rf"^dataset {tmp_path}/corpus: row 0/\d: {message}$"):
        next(batches_of(None, source=source).batches_from(StreamPosition()))


def test_missing_columns_counts_and_files_are_named(folder, tmp_path):
    with pytest.raises(InputError, match="no column 'txt'; did you mean 'text'"):
        batches_of(folder, source=DatasetSource(path=str(folder), text="txt"))
    with pytest.raises(InputError, match="does not give its number of examples; set `examples` in the recipe"):
        batches_of(folder, source=DatasetSource(path=str(folder)))
    with pytest.raises(InputError, match="row 0/0: column 'lang' holds no audio file"):
        next(
            batches_of(folder, source=DatasetSource(path=str(folder), audio="lang", examples=66)).batches_from(
                StreamPosition()
            )
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"dataset {tmp_path}/empty: ") as caught:
        batches_of(folder, source=DatasetSource(path=str(tmp_path / "empty")))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="part 1 of its files has no utterance of at most `max_seconds`; raise it"):
        next(batches_of(folder, max_seconds=0.01).batches_from(StreamPosition()))
    batches = batches_of(folder)
    with pytest.raises(InputError, match="have changed since the checkpoint"):
        batches_of(folder, batches_per_step=2).position_from_state(batches.state_dict(StreamPosition()))


@pytest.mark.parametrize("max_seconds", [None, 30.0])
def test_a_lane_whose_files_are_empty_is_named(tmp_path, max_seconds):
    (tmp_path / "sound.flac").write_bytes(sound(0, 0.5))
    (tmp_path / "corpus").mkdir()
    row = {"audio": str(tmp_path / "sound.flac"), "text": "a"}
    (tmp_path / "corpus" / "train-0.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "corpus" / "train-1.jsonl").touch()
    source = DatasetSource(path=str(tmp_path / "corpus"), examples=1)
    batches = batches_of(None, rank=1, processes=2, source=source, batches_per_step=2, max_seconds=max_seconds)
    produced = batches.batches_from(StreamPosition())
    next(produced)  # the other process's batch
    with pytest.raises(InputError, match="part 2 of its files has no examples; leave out empty files"):
        next(produced)
