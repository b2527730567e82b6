import json

import pytest
import soundfile

from arkasr.errors import InputError
from arkasr.recipe.settings import SetSettings
from arkasr.run.sets import load_set


@pytest.fixture
def folder(tmp_path):
    rows = []
    for place in range(8):
        soundfile.write(tmp_path / f"{place}.wav", [0.1] * 1_600, 16_000)
        language = "zh" if place % 2 else "en"
        rows.append({"audio": f"{place}.wav", "text": f"secret {place}", "language": language, "id": str(place)})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def ids(folder, **settings):
    return [utterance.id for utterance in load_set(SetSettings(manifest="train.jsonl", **settings), folder)]


def test_withheld_labels_are_nowhere_in_the_set(folder):
    for utterance in load_set(SetSettings(manifest="train.jsonl", labels="withheld"), folder):
        assert utterance.text is None
        assert "secret" not in repr(utterance)


def test_a_share_of_a_shuffled_manifest_is_the_beginning_of_a_larger_share(folder):
    assert ids(folder, shuffle=3, first=3) == ids(folder, shuffle=3)[:3]
    assert ids(folder, shuffle=3) != ids(folder, shuffle=4)
    assert sorted(ids(folder, shuffle=3)) == ids(folder) == [str(place) for place in range(8)]


def test_a_set_of_one_language(folder):
    assert ids(folder, language="Chinese") == ["1", "3", "5", "7"]
    with pytest.raises(InputError, match="has no utterance in German"):
        ids(folder, language="de")


def test_a_set_without_its_longest_utterances(folder):
    soundfile.write(folder / "5.wav", [0.1] * 16_000, 16_000)
    assert ids(folder, max_seconds=0.5) == ["0", "1", "2", "3", "4", "6", "7"]
    with pytest.raises(InputError, match=r"no utterance of at most 0\.05 s; change the set's `max_seconds`"):
        ids(folder, max_seconds=0.05)


def test_a_set_that_asks_for_more_than_there_is(folder):
    with pytest.raises(InputError, match="has 8 utterances; the recipe asks for the first 9"):
        ids(folder, first=9)
