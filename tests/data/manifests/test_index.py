import errno
import json
import os
import pickle
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from arkasr import locks
from arkasr.data.manifests import checked_records, indexing, opening
from arkasr.data.manifests.durations import seconds_of
from arkasr.data.manifests.index import RECORD, open_index
from arkasr.data.manifests.indexing import build_index
from arkasr.data.manifests.manifest import ManifestError, read_manifest
from arkasr.errors import InputError
from tests.data.manifests.test_manifest import BAD_LINES


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(indexing, "CHUNK", 7)


def write(folder, *lines):
    path = folder / "set.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def lines_of_all_kinds(count):
    languages = ["en", None, "zh", "German"]
    for place in range(count):
        line = {
            "audio": "clips/a.wav",
            "id": f"你好-{place}",
            "text": f"text {place}",
            "language": languages[place % 4],
        }
        if place % 3 == 1:
            line |= {"begin_time": 0.1, "end_time": 0.4 + place / 1_000}
        if place % 3 == 2:
            line["duration"] = 0.1 + place / 7
        if place % 5 == 0:
            del line["text"]
        yield line
        if place % 6 == 0:
            yield "  "


def test_every_line_is_what_reading_the_whole_manifest_gives(folder, small_chunks):
    path = write(folder, *lines_of_all_kinds(50))
    expected = read_manifest(path)
    build_index(path)
    index = open_index(path)
    assert [index.utterance(line) for line in range(len(index))] == expected
    records = index.records(0, len(index))
    assert records["seconds"].tolist() == list(map(seconds_of, expected))
    assert [index.languages[code] for code in records["language"]] == [item.language for item in expected]
    assert records["labelled"].tolist() == [item.text is not None for item in expected]
    assert not index.labelled
    assert build_index(write(folder, {"audio": "clips/a.wav", "text": ""})).labelled


def test_an_index_that_is_handed_to_another_process_opens_its_files_anew(folder):
    path = write(folder, *lines_of_all_kinds(20))
    index = build_index(path)
    again = pickle.loads(pickle.dumps(index))
    assert [again.utterance(line) for line in range(20)] == [index.utterance(line) for line in range(20)]


def test_every_bad_line_is_found_as_by_reading(folder, small_chunks):
    good = {"audio": "clips/a.wav"}
    path = write(folder, *(line for line, _ in BAD_LINES), good, "", good, {**good, "id": "x"}, {**good, "id": "x"})
    with pytest.raises(ManifestError) as expected:
        read_manifest(path)
    with pytest.raises(ManifestError) as found:
        build_index(path)
    assert found.value.problems == expected.value.problems
    assert str(found.value) == str(expected.value)
    assert open_index(path) is None


def test_repeated_ids_are_found_wherever_they_stand(folder, small_chunks):
    lines = [{"audio": "clips/a.wav", "id": str(place)} for place in range(40)]
    lines[31]["id"] = lines[38]["id"] = "2"
    path = write(folder, *lines)
    with pytest.raises(ManifestError) as found:
        build_index(path)
    assert [(problem.line, problem.message.split(";")[0]) for problem in found.value.problems] == [
        (32, "id '2' is also in line 3"),
        (39, "id '2' is also in line 3"),
    ]


def test_two_ids_with_the_same_hash_are_two_ids(folder, monkeypatch):
    monkeypatch.setattr(indexing, "digest_of", lambda name: 7)
    path = write(folder, *lines_of_all_kinds(10))
    assert len(build_index(path)) == 10


def test_many_bad_lines_are_not_all_kept(folder, monkeypatch):
    monkeypatch.setattr(indexing, "MOST_PROBLEMS", 3)
    with pytest.raises(ManifestError, match=r"set\.jsonl:1: not JSON .* \(and 2 or more; "):
        build_index(write(folder, *["{"] * 10))


def test_audio_without_a_duration_is_measured_as_far_as_it_can_be(folder):
    (folder / "clips" / "text.wav").write_text("not audio")
    index = build_index(write(folder, {"audio": "clips/b.flac"}, {"audio": "clips/text.wav"}))
    assert index.records(0, 1)["seconds"][0] == 0.5
    assert np.isnan(index.records(1, 2)["seconds"][0])


def test_missing_and_empty_manifests(folder):
    with pytest.raises(InputError, match=r"absent\.jsonl: no such manifest"):
        build_index(folder / "absent.jsonl")
    assert not (folder / "absent.jsonl.index").exists()
    with pytest.raises(InputError, match="the manifest is empty"):
        build_index(write(folder, "", ""))


def spoiled(name, damage):
    """What does something to the content of a file of the index."""

    def spoil(folder):
        path = folder / "set.jsonl.index" / name
        path.write_bytes(damage(path.read_bytes()))

    return spoil


def remove_records(folder):
    (folder / "set.jsonl.index" / "lines").unlink()


def touch_manifest(folder):
    os.utime(folder / "set.jsonl", ns=(1, 1))


def lengthen_manifest(folder):
    with (folder / "set.jsonl").open("a") as file:
        file.write('\n{"audio": "clips/b.flac", "id": "new"}')


DAMAGES_SEEN_WHEN_IT_IS_OPENED = {
    "records cut off": spoiled("lines", lambda content: content[:-5]),
    "records lost": spoiled("lines", lambda content: b""),
    "other bytes at the end": spoiled("lines", lambda content: content[:-1] + b"x"),
    "other checksums": spoiled("ids", lambda content: content[:-16] + b"xxxx" + content[-12:]),
    "no description": spoiled("index.json", lambda content: b'{"format": 2}'),
    "another description": spoiled("index.json", lambda content: content.replace(b"German", b"French")),
    "no object": spoiled("index.json", lambda content: b'"crc32"'),
    "no records": remove_records,
    "another time": touch_manifest,
    "another length": lengthen_manifest,
}


@pytest.mark.parametrize("damage", DAMAGES_SEEN_WHEN_IT_IS_OPENED.values(), ids=DAMAGES_SEEN_WHEN_IT_IS_OPENED)
def test_an_index_that_is_damaged_or_of_another_manifest_is_made_anew(folder, damage):
    path = write(folder, *lines_of_all_kinds(20))
    build_index(path)
    assert open_index(path) is not None
    damage(folder)
    assert open_index(path) is None
    index = build_index(path)
    assert [index.utterance(line) for line in range(len(index))] == read_manifest(path)


@pytest.mark.parametrize("field", RECORD.names)
def test_a_record_of_another_content_is_refused_and_the_index_made_anew(folder, field, monkeypatch):
    monkeypatch.setattr(checked_records, "BLOCK", 4)
    path = write(folder, *lines_of_all_kinds(20))
    build_index(path)
    place = 9 * RECORD.itemsize + RECORD.fields[field][1]
    spoiled("lines", lambda content: content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])(folder)
    index = open_index(path)
    assert [index.utterance(line) for line in range(8)] == read_manifest(path)[:8]
    with pytest.raises(InputError, match=r"set\.jsonl: .*lines: records 8 to 11 are damaged; start again \(this"):
        index.records(0, 20)
    again = open_manifest_of_any_size(path, monkeypatch)
    assert list(again) == read_manifest(path)


def test_a_line_is_found_by_its_id(folder, small_chunks, monkeypatch):
    path = write(folder, *lines_of_all_kinds(50))
    index = build_index(path)
    assert [index.find(utterance.id) for utterance in read_manifest(path)] == list(range(50))
    assert index.find("absent") is None
    spoiled("ids", lambda content: b"x" + content[1:])(folder)
    with pytest.raises(InputError, match=r"ids: records 0 to 49 are damaged"):
        open_index(path).find("absent")


def test_a_manifest_that_changes_under_its_index_is_named(folder, monkeypatch):
    path = write(folder, *lines_of_all_kinds(20))
    before = path.stat()
    index = build_index(path)
    changed = path.read_text().replace("text 3", "TEXT 3")
    path.write_text(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert index.utterance(4).id == read_manifest(path)[4].id
    for found in (index, open_index(path)):
        with pytest.raises(InputError, match=r"set\.jsonl: the line at byte \d+ has changed since it was indexed"):
            found.utterance(3)
    again = open_manifest_of_any_size(path, monkeypatch)
    assert again[3].text == "TEXT 3"


def open_manifest_of_any_size(path, monkeypatch):
    monkeypatch.setattr(opening, "LARGE_BYTES", 1)
    return opening.open_manifest(path)


@contextmanager
def read_only(folder):
    """A folder that may not be written to, as far as the user of the tests lets it be so."""
    folder.chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        folder.chmod(0o755)


def test_an_index_is_in_the_cache_where_the_manifest_s_folder_is_read_only(monkeypatch):
    with TemporaryDirectory() as name, TemporaryDirectory() as cache:
        folder = Path(name)
        Path(cache).chmod(0o777)
        monkeypatch.setenv("ARKASR_CACHE", cache)
        (folder / "a.wav").touch()
        path = write(folder, *({"audio": "a.wav", "id": str(place), "duration": 1.0} for place in range(9)))
        with read_only(folder):
            assert list(open_manifest_of_any_size(path, monkeypatch)) == read_manifest(path)
            assert len(list(Path(cache).glob("index-*/lines"))) == 1
        lengthened = path.read_text() + '\n{"audio": "a.wav", "id": "new", "duration": 1.0}'
        path.write_text(lengthened)
        assert len(open_manifest_of_any_size(path, monkeypatch)) == 10
        assert (folder / "set.jsonl.index" / "lines").exists()


def test_what_is_in_the_way_of_an_index_is_named(folder, monkeypatch):
    path = write(folder, *lines_of_all_kinds(20))
    (folder / "set.jsonl.index").touch()
    assert list(opening.open_manifest(path)) == read_manifest(path)
    with pytest.raises(
        InputError, match=r"set\.jsonl\.index: is where the index of set\.jsonl belongs; move the file away"
    ):
        open_manifest_of_any_size(path, monkeypatch)


def refusing(number):
    def refuse(file, kind):
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_file_system_without_locks_has_an_index_all_the_same(folder, monkeypatch):
    monkeypatch.setattr(locks.fcntl, "lockf", refusing(errno.ENOLCK))
    assert len(build_index(write(folder, *lines_of_all_kinds(20)))) == 20


def test_a_lock_that_fails_otherwise_is_named(folder, monkeypatch):
    monkeypatch.setattr(locks.fcntl, "lockf", refusing(errno.EIO))
    with pytest.raises(OSError, match=r"Input/output error: .*set\.jsonl\.index"):
        build_index(write(folder, *lines_of_all_kinds(20)))


def test_nothing_but_the_index_is_left(folder):
    path = write(folder, *lines_of_all_kinds(20))
    with pytest.raises(KeyboardInterrupt):
        build_index(path, on_bytes=interrupt)
    assert open_index(path) is None
    build_index(path)
    assert {file.name for file in (folder / "set.jsonl.index").iterdir()} == {".lock", "ids", "index.json", "lines"}


def interrupt(read):
    raise KeyboardInterrupt
