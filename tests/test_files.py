import pytest

from arkasr.files import append_lines, atomic_path, complete_lines, write_atomically


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "table.txt"
    write_atomically(path, ["one\n"])

    def failing():
        yield "two\n"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, failing())
    assert path.read_text() == "one\n"
    write_atomically(path, ["two\n", "three\n"])
    assert path.read_text() == "two\nthree\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["table.txt"]


def fail_to_write(path):
    with atomic_path(path) as writing:
        writing.mkdir()
        raise RuntimeError


def test_a_folder_appears_when_complete_and_leftovers_of_a_kill_are_removed(tmp_path):
    path = tmp_path / "model"
    (tmp_path / ".model.writing").mkdir()
    (tmp_path / ".model.writing" / "old").touch()
    with pytest.raises(RuntimeError):
        fail_to_write(path)
    assert not list(tmp_path.iterdir())
    with atomic_path(path) as writing:
        writing.mkdir()
        (writing / "weights").touch()
        assert not path.exists()
    assert [entry.name for entry in tmp_path.rglob("*")] == ["model", "weights"]


def test_an_incomplete_last_line_is_not_read_and_can_be_removed(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert complete_lines(path) == []
    append_lines(path, ["a\n", "b\n"])
    with path.open("a") as file:
        file.write("cut sho")
    assert complete_lines(path) == ["a", "b"]
    assert complete_lines(path, mend=True) == ["a", "b"]
    append_lines(path, ["c\n"])
    assert complete_lines(path) == ["a", "b", "c"]


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path):
    for name in ("n" * 255, "ä" * 127):
        write_atomically(tmp_path / name, ["one\n"])
        assert (tmp_path / name).read_text() == "one\n"
    assert len(list(tmp_path.iterdir())) == 2
