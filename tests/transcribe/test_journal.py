import pytest

from arkasr.errors import InputError
from arkasr.recognizers.inference import Recognition
from arkasr.transcribe.journal import Journal

FIRST = Recognition("raw 今天", "今天", 3, True)
SECOND = Recognition(error="could not be heard")
RUN = {"model": "tiny", "max_new_tokens": 16}


def write(path):
    with Journal(path, RUN) as journal:
        journal.add({"a": FIRST})
        journal.add({"b": SECOND})


def test_stored_recognitions_are_read_back(tmp_path):
    write(tmp_path / "journal")
    with Journal(tmp_path / "journal", RUN) as journal:
        assert (journal.get("a"), journal.get("b"), journal.get("c")) == (FIRST, SECOND, None)


def test_complete_lines_survive_a_kill_at_any_byte(tmp_path):
    path = tmp_path / "journal"
    write(path)
    complete = path.read_bytes()
    for length in range(len(complete)):
        path.write_bytes(complete[:length])
        with Journal(path, RUN) as journal:
            assert (journal.get("b") == SECOND) == (length == len(complete))
            journal.add({name: value for name, value in {"a": FIRST, "b": SECOND}.items() if not journal.get(name)})
        assert path.read_bytes() == complete


@pytest.mark.parametrize("damage", [b"\0\0\0\0\n", b"[1]\n", b'{"key": "b", "words": 3}\n', b'"text"\n'])
def test_a_damaged_line_and_all_after_it_are_ignored(tmp_path, damage):
    path = tmp_path / "journal"
    write(path)
    header, first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + first + damage + second)
    with Journal(path, RUN) as journal:
        assert (journal.get("a"), journal.get("b")) == (FIRST, None)
        journal.add({"b": SECOND})
    assert path.read_bytes() == header + first + second


def test_other_settings_are_refused(tmp_path):
    write(tmp_path / "journal")
    with pytest.raises(InputError, match="another model or other settings; repeat that command to finish"):
        Journal(tmp_path / "journal", RUN | {"model": "large"})


def test_remove_deletes_the_file(tmp_path):
    with Journal(tmp_path / "journal", RUN) as journal:
        journal.remove()
    assert list(tmp_path.iterdir()) == []
