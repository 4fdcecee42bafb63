import os
import threading

import pytest

from cluster.probe import storage


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "nas" / ".vr-doctor-1"
    path.parent.mkdir()
    storage.make_folder(path, "the word")
    return path


def test_one_folder_is_recognised_and_works(folder):
    share = storage.check_share(folder, "the word", "study", held=False)
    assert (share.same_file, share.renamed, share.locked, share.lock_seen, share.error) == (
        True,
        True,
        True,
        None,
        None,
    )


def test_a_folder_with_another_content_is_another(folder):
    assert not storage.check_share(folder, "another word", "study", held=False).same_file


def test_a_folder_that_is_not_mounted_says_which_file_is_missing(tmp_path):
    share = storage.check_share(tmp_path / "nowhere", "the word", "study", held=False)
    assert not share.same_file
    assert share.error == f"{tmp_path}/nowhere/mark: No such file or directory"


def test_a_folder_that_cannot_be_written(folder):
    own = folder / "own-study"
    own.mkdir()  # root may write everywhere, but not over a folder
    share = storage.check_share(folder, "the word", "study", held=False)
    assert (share.same_file, share.renamed) == (True, False)
    assert "own-study" in share.error or "directory" in share.error


def test_the_first_nodes_lock_is_seen_by_the_others(folder):
    held = storage.hold_lock(folder / storage.LOCK)
    assert storage.check_share(folder, "the word", "study", held=True).lock_seen
    os.close(held)
    assert storage.check_share(folder, "the word", "study", held=True).lock_seen is False


def test_a_change_is_seen_when_it_comes(folder):
    path = folder / "changing"
    path.write_bytes(b"old")
    assert storage.await_content(path, b"old", timeout_s=0.05) is None
    change = threading.Timer(0.2, storage.write_renamed, (path, b"new"))
    change.start()
    seen_s = storage.await_content(path, b"old", timeout_s=30.0)
    change.join()
    assert seen_s is not None
    assert path.read_bytes() == b"new"


def test_rates_are_measured_within_their_bounds_and_nothing_is_left(tmp_path):
    rates = storage.disk_rates(tmp_path, most_bytes=8 * 2**20, seconds=5.0)
    assert rates.error is None
    assert min(rates.write, rates.read, rates.crops) > 1e5
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "file"
    storage.write_rate(path, most_bytes=2**40, seconds=0.05)
    assert path.stat().st_size < 2**33, "the time ends it too"
    storage.write_rate(path, most_bytes=2**22, seconds=60.0)
    assert path.stat().st_size == 2**22


def test_a_disk_that_cannot_be_written_is_told_with_its_reason(tmp_path):
    rates = storage.disk_rates(tmp_path / "none", most_bytes=1, seconds=1.0)
    assert rates.write is rates.read is rates.crops is None
    assert "No such file or directory" in rates.error


def test_a_large_file_of_another_node_is_read(folder):
    storage.write_rate(folder / storage.LARGE, most_bytes=4 * 2**20, seconds=5.0)
    rates = storage.shared_rates(folder / storage.LARGE, seconds=0.2)
    assert rates.write is None
    assert min(rates.read, rates.crops) > 1e5
    assert "No such file" in storage.shared_rates(folder / "none", seconds=0.2).error


def test_a_file_is_replaced_and_not_written_into(folder):
    path = folder / "changing"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        storage.write_renamed(path, b"new")
        assert reader.read() == b"old", "who has it open keeps what was there"
    assert path.read_bytes() == b"new"
