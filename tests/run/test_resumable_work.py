import pytest

from arkasr.errors import InputError
from arkasr.run import resumable_work as module
from arkasr.run.resumable_work import ResumableWork


@pytest.fixture
def parts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_PART_UTTERANCES", 4)
    return ResumableWork(tmp_path / "parts", list(range(10)))


def squares(numbers):
    return [{"number": number, "square": number**2} for number in numbers]


def test_parts_are_done_once_and_read_in_order(parts):
    missing = parts.missing()
    assert missing == [range(4), range(4, 8), range(8, 10)]
    for part in reversed(missing):
        parts.do(part, squares)
    assert parts.missing() == []
    assert list(parts.rows()) == squares(range(10))
    parts.remove()
    assert not parts.folder.exists()


def test_what_is_missing_is_cut_anew_around_what_is_done(parts, monkeypatch):
    parts.do(range(3, 6), squares)
    monkeypatch.setattr(module, "MAX_PART_UTTERANCES", 100)
    assert parts.missing() == [range(3), range(6, 10)]


@pytest.mark.parametrize("lost", ["0-4", "4-8", "8-10"])
def test_a_part_that_is_not_there_is_missed(parts, lost):
    for part in parts.missing():
        parts.do(part, squares)
    (parts.folder / f"{lost}.jsonl").unlink()
    with pytest.raises(InputError, match=f"utterances {lost.replace('-', ' to ')} are missing"):
        list(parts.rows())


def test_what_a_kill_left_half_written_is_not_a_part(parts):
    parts.folder.mkdir()
    (parts.folder / ".0-4.jsonl.writing").write_text('{"number": 0')
    assert parts.missing() == [range(4), range(4, 8), range(8, 10)]
