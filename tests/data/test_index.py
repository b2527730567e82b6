import json
import os
import pickle

import numpy as np
import pytest
import soundfile

from arkasr.data import indexing
from arkasr.data.examples import seconds_of
from arkasr.data.index import open_index
from arkasr.data.indexing import build_index
from arkasr.data.manifest import ManifestError, read_manifest
from arkasr.errors import InputError
from tests.data.test_manifest import BAD_LINES


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "a.wav", [0.1] * 16_000, 16_000)
    soundfile.write(tmp_path / "clips" / "b.flac", [0.0] * 8_000, 16_000)
    return tmp_path


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(indexing, "CHUNK", 7)
    monkeypatch.setattr(indexing, "IDS_AT_ONCE", 5)


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
        (32, "id '2' stands in line 3 too"),
        (39, "id '2' stands in line 3 too"),
    ]


def test_two_ids_with_the_same_hash_are_two_ids(folder, monkeypatch):
    monkeypatch.setattr(indexing, "hash", lambda name: 7, raising=False)
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


def cut_off(folder):
    records = folder / "set.jsonl.index" / "lines.npy"
    records.write_bytes(records.read_bytes()[:-5])


def spoil_header(folder):
    records = folder / "set.jsonl.index" / "lines.npy"
    records.write_bytes(b"x" * records.stat().st_size)


def spoil_description(folder):
    (folder / "set.jsonl.index" / "index.json").write_text('{"format": 1}')


def remove_records(folder):
    (folder / "set.jsonl.index" / "lines.npy").unlink()


def touch_manifest(folder):
    os.utime(folder / "set.jsonl", ns=(1, 1))


def lengthen_manifest(folder):
    with (folder / "set.jsonl").open("a") as file:
        file.write('\n{"audio": "clips/b.flac", "id": "new"}')


@pytest.mark.parametrize(
    "damage", [cut_off, spoil_header, spoil_description, remove_records, touch_manifest, lengthen_manifest]
)
def test_an_index_that_is_damaged_or_of_another_manifest_is_made_anew(folder, damage):
    path = write(folder, *lines_of_all_kinds(20))
    build_index(path)
    assert open_index(path) is not None
    damage(folder)
    assert open_index(path) is None
    index = build_index(path)
    assert [index.utterance(line) for line in range(len(index))] == read_manifest(path)


def test_a_manifest_that_changes_under_its_index_is_named(folder):
    path = write(folder, *lines_of_all_kinds(20))
    index = build_index(path)
    path.write_text("x" * path.stat().st_size)
    with pytest.raises(InputError, match=r"set\.jsonl: its index does not fit .* remove .*set\.jsonl\.index$"):
        index.utterance(3)


def test_nothing_but_the_index_is_left(folder):
    path = write(folder, *lines_of_all_kinds(20))
    with pytest.raises(KeyboardInterrupt):
        build_index(path, on_bytes=interrupt)
    assert open_index(path) is None
    build_index(path)
    assert {file.name for file in (folder / "set.jsonl.index").iterdir()} == {".lock", "index.json", "lines.npy"}


def interrupt(read):
    raise KeyboardInterrupt
