import pytest

from arkasr.errors import InputError
from arkasr.run import resumable_work as resumable_work_module
from arkasr.run.resumable_work import ResumableWork


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.setattr(resumable_work_module, "MAX_PART_UTTERANCES", 4)
    return ResumableWork(tmp_path / "parts", list(range(10)))


def squares(numbers):
    return [{"number": number, "square": number**2} for number in numbers]


def test_every_part_is_done_once_and_rows_are_read_in_order(work):
    missing = work.missing()
    assert missing == [range(4), range(4, 8), range(8, 10)]
    for part in reversed(missing):
        work.do(part, squares)
    assert work.missing() == []
    assert list(work.rows()) == squares(range(10))
    work.remove()
    assert not work.folder.exists()


def test_missing_utterances_are_split_anew_around_finished_parts(work, monkeypatch):
    work.do(range(3, 6), squares)
    monkeypatch.setattr(resumable_work_module, "MAX_PART_UTTERANCES", 100)
    assert work.missing() == [range(3), range(6, 10)]


@pytest.mark.parametrize("deleted", ["0-4", "4-8", "8-10"])
def test_a_deleted_part_is_reported_when_rows_are_read(work, deleted):
    for part in work.missing():
        work.do(part, squares)
    (work.folder / f"{deleted}.jsonl").unlink()
    with pytest.raises(InputError, match=f"utterances {deleted.replace('-', ' to ')} are missing"):
        list(work.rows())


def test_a_half_written_file_is_not_a_part(work):
    work.folder.mkdir()
    (work.folder / ".0-4.jsonl.writing").write_text('{"number": 0')
    assert work.missing() == [range(4), range(4, 8), range(8, 10)]
