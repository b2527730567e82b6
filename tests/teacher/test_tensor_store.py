"""Tensors on disk: what is read back, damage, the limit, and several processes."""

import multiprocessing
import resource

import pytest
import torch

from arkasr.teacher.tensor_store import TensorStore

MIB = 2**20
TENSORS = {
    "states": torch.randn(5, 3),
    "halves": torch.randn(2, 7).to(torch.bfloat16),
    "transcript": torch.tensor([4, 1, 9]),
    "none": torch.empty(0, 3),
}


@pytest.fixture
def store(tmp_path):
    return TensorStore(tmp_path / "store", MIB)


def files_of(store):
    return [path for path in store.folder.rglob("*") if path.is_file()]


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_an_entry_is_read_back_with_its_bits_and_types_also_by_a_later_process(store):
    assert store.get("ab12") is None
    store.put("ab12", TENSORS)
    for reader in (store, TensorStore(store.folder, MIB)):
        assert_equal(reader.get("ab12"), TENSORS)
        assert reader.get("ab13") is None


def test_the_latest_tensors_of_a_key_are_kept(store):
    store.put("ab12", TENSORS)
    store.put("ab12", {"states": torch.ones(9, 2)})
    assert_equal(store.get("ab12"), {"states": torch.ones(9, 2)})
    assert len(files_of(store)) == 1


def test_an_entry_with_any_damage_counts_as_missing_and_is_replaced(store):
    store.put("ab12", TENSORS)
    (path,) = files_of(store)
    content = path.read_bytes()
    damaged = [content[:length] for length in (0, 5, 100, len(content) - 1)] + [content + b"-"]
    damaged += [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))]
    for wrong in damaged:
        path.write_bytes(wrong)
        assert store.get("ab12") is None
    store.put("ab12", TENSORS)
    assert_equal(store.get("ab12"), TENSORS)


def test_an_entry_under_the_name_of_another_key_counts_as_missing(store):
    store.put("ab12", TENSORS)
    (path,) = files_of(store)
    path.rename(path.with_name("ab13.safetensors"))
    assert store.get("ab13") is None


def test_a_full_store_keeps_its_entries_and_takes_no_others(tmp_path):
    limit = 10_000
    store = TensorStore(tmp_path, limit)
    keys = [f"{number:04}" for number in range(30)]
    for epoch in range(3):
        for key in keys:
            if store.get(key) is None:
                store.put(key, {"states": torch.full((25, 10), float(key))})
        kept = [key for key in keys if store.get(key) is not None]
        assert kept == keys[: len(kept)], epoch
        assert 7 <= len(kept) <= 10
        assert sum(path.stat().st_size for path in files_of(store)) <= limit
    store.put(keys[0], {"states": torch.zeros(limit // 8)})  # too large for the space of the entry that it replaces
    store = TensorStore(tmp_path, limit)  # counts what is there
    store.put("new", {"states": torch.zeros(1000)})
    assert [key for key in [*keys, "new"] if store.get(key) is not None] == kept
    store.put(keys[1], {"states": torch.ones(5)})
    store.put("new", {"states": torch.ones(5)})  # fits now
    assert store.get("new") is not None


def test_a_folder_that_was_removed_is_created_again(store, tmp_path):
    store.put("ab12", TENSORS)
    store.folder.rename(tmp_path / "elsewhere")
    assert store.get("ab12") is None
    store.put("ab12", TENSORS)
    assert_equal(store.get("ab12"), TENSORS)


def test_a_full_disk_is_an_error_that_names_the_file(store):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))
    try:
        with pytest.raises(OSError, match="too large") as failed:
            store.put("ab12", TENSORS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert failed.value.filename.startswith(str(store.folder))
    assert store.get("ab12") is None


def use_store(folder, limit, process):
    store = TensorStore(folder, limit, process=process, processes=2)
    for _ in range(20):
        for number in range(40):
            key, tensor = f"{number:04}", torch.full((50, 10), float(number))
            found = store.get(key)
            assert found is None or torch.equal(found["states"], tensor)
            store.put(key, {"states": tensor})


def test_two_processes_share_a_folder_and_its_limit(tmp_path):
    limit = 60_000  # half of the entries
    start = multiprocessing.get_context("fork").Process
    users = [start(target=use_store, args=(tmp_path / "store", limit, number)) for number in range(2)]
    for user in users:
        user.start()
    for user in users:
        user.join()
        assert user.exitcode == 0
    store = TensorStore(tmp_path / "store", limit)
    entries = files_of(store)
    assert 10 <= len(entries) <= 30
    assert sum(path.stat().st_size for path in entries) <= limit
    for path in entries:
        assert store.get(path.stem) is not None
