import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import soundfile

from arkasr.data.audio import decode_audio, duration_of
from arkasr.data.examples import ExampleDataset
from arkasr.data.manifests.check import check_manifest
from arkasr.data.manifests.indexed import IndexedUtterances
from arkasr.data.manifests.indexing import build_index
from arkasr.data.manifests.manifest import ManifestError, read_manifest, write_manifest
from arkasr.data.manifests.shards import find_shards, rows_of_shards
from arkasr.data.manifests.utterances import ListedUtterances
from arkasr.errors import InputError


def sound(suffix, seed=0, seconds=0.5, rate=16_000):
    buffer = io.BytesIO()
    samples = np.random.default_rng(seed).normal(size=int(seconds * rate)) * 0.1
    soundfile.write(buffer, samples, rate, format=suffix.upper())
    return buffer.getvalue()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def as_json(**fields):
    return json.dumps(fields).encode()


@pytest.fixture
def corpus(tmp_path):
    """Two shards of three samples, and the same audio as files."""
    suffixes = ["flac", "wav", "mp3", "ogg", "flac", "wav"]
    for shard in range(2):
        members = []
        for place in range(3 * shard, 3 * shard + 3):
            audio = sound(suffixes[place], seed=place, seconds=0.4 + 0.1 * place, rate=[16_000, 22_050][place % 2])
            (tmp_path / f"{place}.{suffixes[place]}").write_bytes(audio)
            members += [
                (f"./utt-{place}.{suffixes[place]}", audio),
                (f"./utt-{place}.json", as_json(text=f"text {place}", language="en", mood={"happy": place})),
            ]
        write_tar(tmp_path / "shards" / f"{shard}.tar", members)
    return tmp_path


def manifest_of(folder, *sources):
    path = folder / "train.jsonl"
    write_manifest(path, rows_of_shards(find_shards(sources or [folder / "shards"]), folder))
    return path


def test_samples_of_shards_become_utterances(corpus):
    found = read_manifest(manifest_of(corpus))
    assert [item.text for item in found] == [f"text {place}" for place in range(6)]
    assert [item.id for item in found] == [f"shards/{place // 3}/utt-{place}" for place in range(6)]
    assert {item.language for item in found} == {"English"}
    assert found[4].fields["mood"] == {"happy": 4}
    assert found[4].audio.parent == corpus / "shards"


def test_audio_in_a_shard_is_the_audio_of_the_file(corpus):
    path = manifest_of(corpus)
    files = [next(corpus.glob(f"{place}.*")) for place in range(6)]
    for item, file in zip(read_manifest(path), files, strict=True):
        assert np.array_equal(decode_audio(item.audio), decode_audio(file))
        assert np.array_equal(decode_audio(item.audio, 0.1, 0.3), decode_audio(file, 0.1, 0.3))
        assert item.duration == pytest.approx(duration_of(file), abs=1e-6)
    assert not check_manifest(path, decode_audio=True).problems


def test_features_of_a_sharded_manifest_are_the_same_with_an_index(corpus, student):
    frontends = {student.frontend: student.features}
    whole = ExampleDataset(read_manifest(manifest_of(corpus)), frontends)
    indexed = ExampleDataset(IndexedUtterances(build_index(corpus / "train.jsonl")), frontends)
    for place in (5, 0, 3):
        assert indexed[place].utterance == whole[place].utterance
        assert indexed[place].features[student.frontend].equal(whole[place].features[student.frontend])


def test_text_comes_from_a_txt_member_or_is_missing(tmp_path):
    write_tar(tmp_path / "a.tar", [("b/x.wav", sound("wav")), ("b/x.txt", "你好\n".encode())])
    (found,) = read_manifest(manifest_of(tmp_path, tmp_path / "a.tar"))
    assert (found.text, found.id, found.duration) == ("你好", "a/b/x", 0.5)
    write_tar(tmp_path / "a.tar", [("x.wav", sound("wav")), ("x.cls", b"3"), ("y.wav", sound("wav"))])
    assert [item.text for item in read_manifest(manifest_of(tmp_path, tmp_path / "a.tar"))] == [None, None]


def test_a_shard_outside_the_manifest_s_folder_has_an_absolute_path(corpus, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    found = read_manifest(manifest_of(tmp_path / "elsewhere", corpus / "shards" / "1.tar"))
    assert len(decode_audio(found[0].audio)) > 0
    assert found[0].fields["audio"].startswith(f"{corpus}/shards/1.tar:")


WAV = sound("wav")
BAD_SHARDS = {
    "no audio": ([("x.json", as_json(text="a"))], r"0\.tar: x has no audio"),
    "no label": (
        [("x.wav", WAV), ("x.txt", b"a"), ("y.wav", WAV)],
        r"0\.tar: y has no \.json or \.txt, but .*0\.tar: x has one",
    ),
    "no label at first": (
        [("x.wav", WAV), ("y.wav", WAV), ("y.txt", b"a")],
        r"0\.tar: x has no \.json or \.txt, but .*0\.tar: y has one",
    ),
    "nothing": ([("notes.md", b"a")], r"0\.tar: no audio \(.*\) in this or any other shard"),
    "twice": ([("x.wav", WAV), ("y.wav", WAV), ("x.wav", WAV)], r"0\.tar: the members of key x are not consecutive"),
    "two audios": ([("x.wav", WAV), ("x.flac", WAV)], r"0\.tar: x has several audio members"),
    "not JSON": ([("x.wav", WAV), ("x.json", b"{")], r"0\.tar: x\.json is not JSON"),
    "no object": ([("x.wav", WAV), ("x.json", b"[]")], r"0\.tar: x\.json is not a JSON object"),
    "not UTF-8": ([("x.wav", WAV), ("x.txt", "ä".encode("latin-1"))], r"0\.tar: x\.txt is not UTF-8"),
    "not audio": (
        [("x.wav", b"words"), ("x.txt", b"a")],
        r"0\.tar: x: .*0\.tar:512:5: not audio that can be read \(Invalid data",
    ),
}


@pytest.mark.parametrize(("members", "message"), BAD_SHARDS.values(), ids=BAD_SHARDS)
def test_a_bad_sample_is_named_and_no_manifest_is_written(tmp_path, members, message):
    write_tar(tmp_path / "shards" / "0.tar", members)
    with pytest.raises(InputError, match=message) as caught:
        manifest_of(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "train.jsonl").exists()


def test_unreadable_audio_is_reported_and_has_no_duration(tmp_path):
    members = [("x.wav", WAV), ("x.txt", b"a"), ("y.wav", b"words"), ("y.txt", b"b"), ("z.wav", WAV), ("z.txt", b"c")]
    write_tar(tmp_path / "0.tar", members)
    reasons = []
    write_manifest(
        tmp_path / "train.jsonl", rows_of_shards([tmp_path / "0.tar"], tmp_path, on_unreadable=reasons.append)
    )
    (reason,) = reasons
    assert reason.startswith(f"{tmp_path}/0.tar: y: {tmp_path}/0.tar:")
    for found in (ListedUtterances(read_manifest(tmp_path / "train.jsonl")), open_indexed(tmp_path / "train.jsonl")):
        measured = found.measured()
        assert [item.text for item in measured.utterances] == ["a", "c"]
        assert [name for name, _ in measured.unmeasured] == ["0/y"]


def open_indexed(path):
    return IndexedUtterances(build_index(path))


def write_with_links(path, *links):
    """A tar of one sample, followed by links."""
    write_tar(path, [("x.wav", WAV), ("x.txt", b"a")])
    with tarfile.open(path, "a") as tar:
        for name, target, kind in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)


def test_a_hard_link_has_the_content_of_its_target(tmp_path):
    write_with_links(tmp_path / "0.tar", ("y.wav", "x.wav", tarfile.LNKTYPE), ("y.txt", "x.txt", tarfile.LNKTYPE))
    first, second = read_manifest(manifest_of(tmp_path, tmp_path / "0.tar"))
    assert (second.id, second.text) == ("0/y", "a")
    assert np.array_equal(decode_audio(first.audio), decode_audio(second.audio))


@pytest.mark.parametrize(("target", "kind"), [("absent.wav", tarfile.LNKTYPE), ("x.wav", tarfile.SYMTYPE)])
def test_a_link_without_content_is_refused(tmp_path, target, kind):
    write_with_links(tmp_path / "0.tar", ("notes", "x.wav", tarfile.SYMTYPE), ("y.wav", target, kind))
    with pytest.raises(
        InputError, match=r"0\.tar: y\.wav is a link or .*; write the shard again \(tar --dereference\)"
    ):
        manifest_of(tmp_path, tmp_path / "0.tar")


def test_tars_joined_by_cat_are_refused_and_those_joined_by_tar_are_read(corpus):
    first, second = sorted((corpus / "shards").iterdir())
    joined = corpus / "joined.tar"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(InputError, match=r"joined\.tar: has data after its end; join tars with `tar --concatenate`"):
        manifest_of(corpus, joined)
    with tarfile.open(first, "a") as tar, tarfile.open(second) as other:
        for member in other.getmembers():
            tar.addfile(member, other.extractfile(member))
    assert len(read_manifest(manifest_of(corpus, first))) == 6


def test_names_with_dots_keep_their_labels_and_pieces_their_length(tmp_path):
    piece = as_json(text="one", begin_time=0.25)
    members = [("a.u1.wav", WAV), ("a.u1.json", piece), ("b.wav", WAV), ("b.txt", b"two")]
    write_tar(tmp_path / "shards" / "0.tar", members)
    first, second = read_manifest(manifest_of(tmp_path))
    assert (first.text, second.text) == ("one", "two")
    assert first.duration == pytest.approx(second.duration - 0.25)


def test_a_shard_truncated_at_any_point_is_refused(corpus):
    shard = corpus / "shards" / "0.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        last = tar.getmembers()[-1]
    end = last.offset_data + 512
    for size in (end, end - 1, last.offset_data + 3, last.offset + 100, last.offset, 700):
        shard.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"0\.tar: is truncated; replace it"):
            manifest_of(corpus)
    shard.write_bytes(whole[: end + 512])
    assert len(read_manifest(manifest_of(corpus))) == 6


def test_lines_of_a_shard_truncated_later_are_bad(corpus):
    path = manifest_of(corpus)
    shard = corpus / "shards" / "0.tar"
    shard.write_bytes(shard.read_bytes()[:3_000])
    for read in (read_manifest, build_index):
        with pytest.raises(ManifestError, match=r"train\.jsonl:1: .*0\.tar ends before it; replace the tar") as caught:
            read(path)
        assert [problem.line for problem in caught.value.problems] == [1, 2, 3]


def test_other_files_than_plain_tars_are_refused_with_a_remedy(corpus):
    shards = corpus / "shards"
    with pytest.raises(InputError, match=r"absent\.tar: no such tar or folder"):
        manifest_of(corpus, corpus / "absent.tar")
    with pytest.raises(InputError, match=r"0\.flac: no \.tar here"):
        manifest_of(corpus, corpus / "0.flac")
    zipped = shards / "2.tar.gz"
    zipped.write_bytes(gzip.compress((shards / "0.tar").read_bytes()))
    with pytest.raises(InputError, match=r"2\.tar\.gz: is compressed, .*decompress it first"):
        manifest_of(corpus)
    zipped.rename(shards / "2.tar")
    with pytest.raises(InputError, match=r"2\.tar: not an uncompressed tar \(.*\); decompress or replace it"):
        manifest_of(corpus)
