import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from arkasr.data.batches import DurationBatchSampler
from arkasr.data.manifests import index as index_module
from arkasr.data.manifests import indexed as indexed_module
from arkasr.data.manifests import opening as opening_module
from arkasr.data.manifests.indexed import IndexedUtterances
from arkasr.data.manifests.indexing import build_index
from arkasr.data.manifests.manifest import read_manifest
from arkasr.data.manifests.opening import open_manifest
from arkasr.data.manifests.utterances import ListedUtterances
from arkasr.recipe.settings import SetSettings
from arkasr.run.sets import load_set

LANGUAGES = ["en", "zh", None]


@pytest.fixture
def manifest(tmp_path):
    soundfile.write(tmp_path / "a.wav", [0.1] * 1_600, 16_000)
    generator = np.random.default_rng(0)
    rows = []
    for place, seconds in enumerate(generator.gamma(4, 1.0, 300).clip(0.3, 16).tolist()):
        row = {"audio": "a.wav", "id": str(place), "duration": seconds, "language": LANGUAGES[place % 3]}
        rows.append(row | ({"text": f"secret {place}"} if place != 100 else {}))
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def both(manifest, monkeypatch):
    monkeypatch.setattr(indexed_module, "RECORDS_PER_SCAN", 64)
    monkeypatch.setattr(index_module, "CHUNK", 50)
    monkeypatch.setattr(index_module, "MAX_RANGE_PER_RECORD", 2)
    return ListedUtterances(read_manifest(manifest)), IndexedUtterances(build_index(manifest))


OPERATIONS = {
    "all": lambda found: found,
    "language": lambda found: found.in_language("Chinese"),
    "no such language": lambda found: found.in_language("German"),
    "seconds": lambda found: found.up_to(3.0),
    "shuffled": lambda found: found.shuffled(7),
    "first": lambda found: found.first(11),
    "withheld": lambda found: found.without_labels(),
    "everything": lambda found: found.in_language("English").up_to(5.0).shuffled(3).first(40).without_labels(),
    "again": lambda found: found.shuffled(3).up_to(4.0).in_language("English").shuffled(2),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_indexed_utterances_equal_listed_ones(both, operation):
    listed, indexed = map(operation, both)
    assert len(indexed) == len(listed)
    assert list(indexed) == list(listed)
    assert indexed[3:9] == listed[3:9]
    seconds = [found.measured().seconds for found in (indexed, listed)]
    assert list(seconds[0]) == seconds[1]
    assert seconds[0][2:20].tolist() == seconds[1][2:20]
    assert indexed.languages() == listed.languages()
    assert indexed.unlabelled() == listed.unlabelled()
    assert indexed.texts() == listed.texts()
    for item in both[0]:
        assert indexed.texts().get(item.id) == listed.texts().get(item.id)
    ids = [values.values(lambda some: [item.id for item in some]) for values in (indexed, listed)]
    assert ids[0][1:7] == ids[1][1:7]


def test_batches_of_indexed_utterances_equal_those_of_listed_ones(both):
    listed, indexed = (
        DurationBatchSampler(
            found.measured().seconds,
            max_audio_seconds=40.0,
            text_tokens=found.values(lambda some: [len(item.text or "") for item in some]),
            max_text_tokens=90,
            seed=2,
        )
        for found in both
    )
    for epoch in range(3):
        assert indexed.batches(epoch) == listed.batches(epoch)


def test_unmeasured_utterances_are_listed_with_the_reason(manifest):
    (manifest.parent / "text.wav").write_text("not audio")
    rows = [{"audio": "a.wav"}, {"audio": "text.wav"}, {"audio": "a.wav", "id": "x", "duration": 9.0}]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    found = [ListedUtterances(read_manifest(manifest)), IndexedUtterances(build_index(manifest))]
    for utterances in found:
        measured = utterances.measured()
        assert [item.id for item in measured.utterances] == ["a.wav", "x"]
        assert list(measured.seconds) == [0.1, 9.0]
        ((name, reason),) = measured.unmeasured
        assert name == "text.wav"
        assert "text.wav: not audio that can be read" in reason
        assert [item.id for item in utterances.up_to(1.0)] == ["a.wav", "text.wav"]


def test_a_recipe_s_set_is_the_same_with_an_index(manifest, monkeypatch):
    settings = SetSettings(manifest=manifest.name, language="en", max_seconds=6, shuffle=1, first=20, labels="withheld")
    expected = list(load_set(settings, manifest.parent))
    monkeypatch.setattr(opening_module, "LARGE_BYTES", 1)
    found = load_set(settings, manifest.parent)
    assert isinstance(found, IndexedUtterances)
    assert list(found) == expected
    assert "secret" not in repr(expected)


def test_a_small_manifest_uses_an_index_only_if_it_has_one(manifest):
    assert isinstance(open_manifest(manifest), ListedUtterances)
    assert not manifest.with_name("train.jsonl.index").exists()
    build_index(manifest)
    assert isinstance(open_manifest(manifest), IndexedUtterances)


MEMORY = """
import itertools, json, re, sys
from pathlib import Path
from arkasr.data import batches
from arkasr.data.manifests.indexing import build_index
from arkasr.data.manifests.indexed import IndexedUtterances

batches.POOL = 8 * batches.BLOCK

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def read(count):
    for batch, _ in itertools.islice(batches_read, count):
        for place in batch:
            utterances[place]

utterances = IndexedUtterances(build_index(Path(sys.argv[1])))
sampler = batches.DurationBatchSampler(utterances.measured().seconds, max_audio_seconds=100.0)
batches_read = sampler.batches_from(batches.DataPosition())
read(1_000)
before = resident()
read(4_000)
print(json.dumps([before, resident()]))
"""


def test_memory_does_not_grow_over_many_pools(tmp_path):
    soundfile.write(tmp_path / "a.wav", [0.1] * 1_600, 16_000)
    seconds = np.random.default_rng(0).gamma(4, 1.0, 100_000).clip(0.3, 16).tolist()
    rows = ({"audio": "a.wav", "id": str(n), "duration": s, "text": "word " * 40} for n, s in enumerate(seconds))
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    run = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    before, after = json.loads(run.stdout)
    # The utterances read in between take about 50 MB.
    assert after - before < 5, (before, after)
