import json

import pytest
import soundfile

from arkasr.errors import InputError
from arkasr.recipe.settings import SetSettings
from arkasr.run.sets import load_set


@pytest.fixture
def folder(tmp_path):
    rows = []
    for index in range(8):
        soundfile.write(tmp_path / f"{index}.wav", [0.1] * 1_600, 16_000)
        language = "zh" if index % 2 else "en"
        rows.append({"audio": f"{index}.wav", "text": f"secret {index}", "language": language, "id": str(index)})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def ids(folder, **settings):
    return [utterance.id for utterance in load_set(SetSettings(manifest="train.jsonl", **settings), folder)]


def test_withheld_labels_are_nowhere_in_the_set(folder):
    for utterance in load_set(SetSettings(manifest="train.jsonl", labels="withheld"), folder):
        assert utterance.text is None
        assert "secret" not in repr(utterance)


def test_the_first_utterances_of_a_shuffled_manifest_begin_any_larger_set(folder):
    assert ids(folder, shuffle=3, first=3) == ids(folder, shuffle=3)[:3]
    assert ids(folder, shuffle=3) != ids(folder, shuffle=4)
    assert sorted(ids(folder, shuffle=3)) == ids(folder) == [str(index) for index in range(8)]


def test_a_set_can_be_limited_to_one_language(folder):
    assert ids(folder, language="Chinese") == ["1", "3", "5", "7"]
    with pytest.raises(InputError, match="has no utterance in German"):
        ids(folder, language="de")


def test_a_set_can_leave_out_its_longest_utterances(folder):
    soundfile.write(folder / "5.wav", [0.1] * 16_000, 16_000)
    assert ids(folder, max_seconds=0.5) == ["0", "1", "2", "3", "4", "6", "7"]
    with pytest.raises(InputError, match=r"no utterance of at most 0\.05 s; change the set's `max_seconds`"):
        ids(folder, max_seconds=0.05)


def test_a_set_larger_than_its_manifest_is_refused(folder):
    with pytest.raises(InputError, match="has 8 utterances; the recipe asks for the first 9"):
        ids(folder, first=9)
