import pytest
import yaml

from arkasr import plain_yaml

WRITTEN = {
    "no": "no",
    "on": "on",
    "yes": "yes",
    "true": True,
    "null": None,
    "~": None,
    "": None,
    "1e-4": 1e-4,
    "1.5E+3": 1500.0,
    ".5": 0.5,
    "010": 10,
    "0o10": 8,
    "0x10": 16,
    "1:30": "1:30",
    "2026-11-27": "2026-11-27",
    "1_000": "1_000",
    "[no, 1, on]": ["no", 1, "on"],
    '"1e-4"': "1e-4",
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_value_means_what_was_written(text):
    assert plain_yaml.load(f"key: {text}") == {"key": WRITTEN[text]}


def test_what_is_written_is_read_alike_by_both_versions_of_yaml():
    document = {"a": list(WRITTEN), "b": {"no": 1e-5, "c": [True, None, 3]}, "ä": "ü"}
    text = plain_yaml.dump(document)
    assert plain_yaml.load(text) == document
    assert yaml.safe_load(text) == document


def test_merge_keys_work_and_a_key_that_occurs_twice_is_an_error():
    assert plain_yaml.load("x: &x {a: 1}\ny: {<<: *x, b: no}")["y"] == {"a": 1, "b": "no"}
    with pytest.raises(plain_yaml.YAMLError, match="the key 'steps' occurs twice"):
        plain_yaml.load("opd:\n  steps: 3\n  kind: opd\n  steps: 5\n")
