"""Recognisers with the same front end share features, which are then computed once."""

import json

import numpy as np
import pytest
import soundfile
import torch

from arkasr.data.examples import ExampleDataset, FeatureCache
from arkasr.data.manifests.manifest import read_manifest
from arkasr.recognizers.load import load_recognizer


def saved(recognizer, folder, **changes):
    """The recogniser loaded from a folder with changed extractor settings."""
    recognizer.save(folder)
    path = folder / "processor_config.json"
    document = json.loads(path.read_text())
    document["feature_extractor"] |= changes
    path.write_text(json.dumps(document))
    return load_recognizer(folder)


@pytest.mark.parametrize(
    "changes", [{"n_fft": 512}, {"hop_length": 80}, {"dither": 0.1}, {"chunk_length": 20}, {"feature_size": 80}]
)
def test_other_extractor_settings_are_another_front_end(student, tmp_path, changes):
    assert saved(student, tmp_path, **changes).frontend != student.frontend


def test_equal_extractor_settings_are_the_same_front_end(student, tmp_path):
    assert saved(student, tmp_path / "same").frontend == student.frontend
    assert saved(student, tmp_path / "other", processor_class="AnotherProcessor").frontend == student.frontend


def test_another_family_or_other_filters_are_another_front_end(student, teacher, tmp_path):
    assert student.frontend != teacher.frontend
    twin = saved(student, tmp_path)
    twin.processor.feature_extractor.mel_filters = student.processor.feature_extractor.mel_filters * 2
    assert twin.frontend != student.frontend


def test_a_teacher_with_another_extractor_gets_its_own_features(student, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(size=16_000) * 0.1, 16_000)
    (tmp_path / "set.jsonl").write_text(json.dumps({"audio": "a.wav"}))
    teacher = saved(student, tmp_path / "teacher", n_fft=512)
    dataset = ExampleDataset(
        read_manifest(tmp_path / "set.jsonl"),
        {recognizer.frontend: recognizer.features for recognizer in (student, teacher)},
        FeatureCache(),
    )
    features = dataset[0].features
    assert not torch.equal(features[student.frontend], features[teacher.frontend])
