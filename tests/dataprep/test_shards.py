import hashlib
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep.errors import NoSpaceError, ShardError
from dataprep.shards.reader import Shard, on_local_disk
from dataprep.shards.writer import BATCH_FRAMES, ShardWriter, verify
from tests.small_disk import full_device
from vr_core.errors import StorageError
from vr_core.specs.stft import StftSpec

STFT = StftSpec(n_fft=64, hop=32)
WIDTH = 64


def columns(frames: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (frames, WIDTH), dtype=np.uint8) for name in ("magnitude", "phase")}


@pytest.fixture(scope="module")
def two_stems(tmp_path_factory):
    """A shard with stems of 4,096 + 1,000 and of 700 frames, its row, and what was written."""
    path = tmp_path_factory.mktemp("shards") / "x.arrow"
    pieces = [columns(BATCH_FRAMES, 0), columns(1000, 1), columns(700, 2)]
    with ShardWriter(path, "polar8", STFT) as writer:
        for piece in pieces:
            writer.write(piece)
        row = writer.close()
    first = {name: np.concatenate([pieces[0][name], pieces[1][name]]) for name in pieces[0]}
    return path, row, [(0, first), (2, pieces[2])]


@given(st.data())
def test_any_crop_is_what_was_written(two_stems, data):
    path, _, stems = two_stems
    first_batch, stem = data.draw(st.sampled_from(stems))
    length = len(stem["phase"])
    start = data.draw(st.integers(0, length - 1))
    frames = data.draw(st.integers(1, min(400, length - start)))
    out = np.zeros((2, frames, 2, WIDTH // 2), np.uint8)
    shard = Shard(path, "polar8", STFT, mapped=data.draw(st.booleans()))
    shard.read_frames(first_batch, start, frames, out)
    for column, name in zip(out, ("magnitude", "phase"), strict=True):
        np.testing.assert_array_equal(column.reshape(frames, -1), stem[name][start : start + frames])


def test_memory_that_does_not_fit_is_refused(two_stems):
    shard = Shard(two_stems[0], "polar8", STFT)
    for shape, kind in (((2, 10, WIDTH // 2), np.uint8), ((2, 10, WIDTH), np.float16), ((1, 10, WIDTH), np.uint8)):
        with pytest.raises(ValueError, match="10 frames are 2 times uint8, 640 bytes"):
            shard.read_frames(0, 0, 10, np.zeros(shape, kind))


def test_a_crop_over_a_record_batch_boundary(two_stems):
    path, _, stems = two_stems
    out = np.zeros((2, 200, WIDTH), np.uint8)
    Shard(path, "polar8", STFT).read_frames(0, BATCH_FRAMES - 50, 200, out)
    np.testing.assert_array_equal(out[1], stems[0][1]["phase"][BATCH_FRAMES - 50 : BATCH_FRAMES + 150])


def test_whole_record_batches_are_what_was_written(two_stems):
    path, row, stems = two_stems
    read = [Shard(path, row.codec, STFT).columns(batch) for batch in range(3)]
    for name, values in stems[0][1].items():
        np.testing.assert_array_equal(np.concatenate([read[0][name], read[1][name]]), values)
        np.testing.assert_array_equal(read[2][name], stems[1][1][name])


def bytes_read() -> int:
    """What this thread has read from files so far; what is copied from a map counts as nothing."""
    return int(Path("/proc/thread-self/io").read_text().split()[1])


def test_headers_are_read_and_frames_are_not(two_stems):
    path, row, _ = two_stems
    before = bytes_read()
    shard = Shard(path, "polar8", STFT)
    shard.read_frames(0, 10, 5, np.zeros((2, 5, WIDTH), np.uint8))
    assert bytes_read() - before < 20_000 < row.bytes


def test_what_is_cut_short_while_it_is_open_is_an_error_and_not_the_end_of_the_process(two_stems, tmp_path):
    path, row, _ = two_stems
    (tmp_path / "x.arrow").write_bytes(path.read_bytes())
    shard = Shard(tmp_path / "x.arrow", "polar8", STFT)
    out = np.zeros((2, BATCH_FRAMES, WIDTH), np.uint8)
    shard.read_frames(0, 0, BATCH_FRAMES, out)
    os.truncate(tmp_path / "x.arrow", row.bytes // 3)
    with pytest.raises(ShardError, match=r"x\.arrow: damaged \(it was cut short"):
        shard.read_frames(0, 0, BATCH_FRAMES, out)
    with pytest.raises(ShardError, match=r"x\.arrow: damaged"):
        shard.read_frames(2, 0, 700, out[:, :700])


@pytest.fixture(scope="module")
def half_there(tmp_path_factory):
    """A shard in memory, and what was written: the second half of its stem is zeros, a hole that was never read."""
    pieces = [columns(BATCH_FRAMES, seed) for seed in (3, 4)]
    pieces += [{name: np.zeros_like(values) for name, values in pieces[0].items()} for _ in range(2)]
    with ShardWriter(tmp_path_factory.mktemp("shards") / "x.arrow", "polar8", STFT) as writer:
        for piece in pieces:
            writer.write(piece)
        writer.close()
    data = writer.path.read_bytes()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "x.arrow"
        with path.open("wb") as file:
            for start in range(0, len(data), 4096):
                if any(page := data[start : start + 4096]):
                    file.seek(start)
                    file.write(page)
            file.truncate(len(data))
        yield path, {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


@pytest.mark.parametrize(
    ("start", "frames", "is_read"),
    [
        pytest.param(1000, 500, False, id="in memory"),
        pytest.param(BATCH_FRAMES - 100, 300, False, id="in memory, of two record batches"),
        pytest.param(2 * BATCH_FRAMES + 1000, 500, True, id="not in memory"),
        pytest.param(2 * BATCH_FRAMES - 300, 600, True, id="in part"),
    ],
)
def test_what_is_in_memory_is_copied_from_it_and_no_other_page_touched(half_there, start, frames, is_read):
    path, stem = half_there
    shard, out = Shard(path, "polar8", STFT), np.ones((2, frames, WIDTH), np.uint8)
    shard.columns(0), shard.columns(2)  # headers
    before = bytes_read()
    shard.read_frames(0, start, frames, out)
    read = bytes_read() - before
    for column, name in zip(out, ("magnitude", "phase"), strict=True):
        np.testing.assert_array_equal(column, stem[name][start : start + frames])
    assert (read > out.nbytes // 3) is is_read, read


MOUNTS = [
    ("/", "ext4"), ("/dev/shm", "tmpfs"), ("/mnt/nas", "nfs4"), ("/mnt/loft", "fuse.sshfs"), ("/mnt/nas/usb", "btrfs"),
    ("/mnt/usb", "cifs"), ("/mnt/usb", "fuseblk"), ("/mnt/old", "xfs"), ("/mnt/old", "nfs"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("/home/ada/data", True), ("/dev/shm/x", True), ("/mnt/nas/data", False), ("/mnt/nas", False),
        ("/mnt/nasty/data", True), ("/mnt/loft/data", False), ("/mnt/nas/usb/data", True), ("/mnt/usb/data", True),
        ("/mnt/old/data", False),
    ],
)  # fmt: skip
def test_a_share_is_told_from_a_disk_of_this_machine(path, local):
    def mounted(all: bool) -> list[SimpleNamespace]:
        kinds = {"ext4", "btrfs", "fuseblk", "xfs"}
        return [SimpleNamespace(mountpoint=at, fstype=kind) for at, kind in MOUNTS if all or kind in kinds]

    assert on_local_disk(Path(path), mounted) is local


def test_a_file_that_is_replaced_stays_what_it_was_for_who_has_it_open(two_stems, tmp_path):
    path, _, stems = two_stems
    (tmp_path / "x.arrow").write_bytes(path.read_bytes())
    shard = Shard(tmp_path / "x.arrow", "polar8", STFT)
    (tmp_path / "other").write_bytes(b"something else")
    (tmp_path / "other").replace(tmp_path / "x.arrow")
    out = np.zeros((2, 700, WIDTH), np.uint8)
    shard.read_frames(2, 0, 700, out)
    np.testing.assert_array_equal(out[1], stems[1][1]["phase"])


def test_any_arrow_reader_can_read_it(two_stems):
    path, row, stems = two_stems
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.num_rows == row.rows == BATCH_FRAMES + 1700
    np.testing.assert_array_equal(np.array(table["phase"][5].as_py(), np.uint8), stems[0][1]["phase"][5])


def test_the_row_describes_the_file(two_stems):
    path, row, _ = two_stems
    assert row.bytes == path.stat().st_size
    assert row.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    verify(path, row)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9, 0.999])
def test_a_shard_cut_short_is_refused_by_name(two_stems, tmp_path, share):
    path, row, _ = two_stems
    short = tmp_path / "x.arrow"
    short.write_bytes(path.read_bytes()[: int(row.bytes * share)])
    with pytest.raises(ShardError, match=r"x\.arrow.*damaged.*vr data verify"):
        Shard(short, "polar8", STFT)
    with pytest.raises(ShardError, match=r"x\.arrow.*bytes long"):
        verify(short, row)


def test_any_flipped_byte_is_found_by_verify(two_stems, tmp_path):
    path, row, _ = two_stems
    whole = path.read_bytes()
    for at in (0, 100, row.bytes // 2, row.bytes - 30):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        (tmp_path / "x.arrow").write_bytes(damaged)
        with pytest.raises(ShardError, match="SHA-256"):
            verify(tmp_path / "x.arrow", row)


def test_flipped_bytes_in_header_and_footer_never_read_as_something_else(two_stems, tmp_path):
    path, row, stems = two_stems
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-10:-6], "little")
    places = [*range(0, 1400, 11), *range(row.bytes - 10 - footer, row.bytes, 7)]
    out = np.zeros((2, BATCH_FRAMES, WIDTH), np.uint8)
    refused = 0
    for at in places:
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        file = tmp_path / f"{at}.arrow"
        file.write_bytes(damaged)
        try:
            Shard(file, "polar8", STFT).read_frames(0, 0, BATCH_FRAMES, out)
        except ShardError:
            refused += 1
        else:  # padding, or a field that no reader uses
            different = (out[0] != stems[0][1]["magnitude"][:BATCH_FRAMES]).sum()
            assert different <= 1  # one where the byte is one of the frames' own, which only `verify` can tell
    assert refused > len(places) // 5


@pytest.mark.parametrize(
    ("codec", "stft", "named"),
    [("complex16", STFT, "codec polar8"), ("polar8", StftSpec(n_fft=64, hop=16), "STFT settings")],
)
def test_other_settings_are_refused_by_name(two_stems, codec, stft, named):
    with pytest.raises(ShardError, match=named):
        Shard(two_stems[0], codec, stft)


def test_another_schema_version_is_refused(two_stems, tmp_path):
    with pa.memory_map(str(two_stems[0])) as file:
        table = pa.ipc.open_file(file).read_all()
    newer = table.replace_schema_metadata({**table.schema.metadata, b"vr.schema_version": b"2"})
    with pa.ipc.new_file(str(tmp_path / "x.arrow"), newer.schema) as writer:
        writer.write_table(newer)
    with pytest.raises(ShardError, match="schema version 2, expected 1"):
        Shard(tmp_path / "x.arrow", "polar8", STFT)


def test_a_missing_shard_and_a_foreign_file(tmp_path):
    with pytest.raises(ShardError, match=r"gone\.arrow: missing"):
        Shard(tmp_path / "gone.arrow", "polar8", STFT)
    table = pa.table({"x": [1, 2]})
    with pa.ipc.new_file(str(tmp_path / "other.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ShardError, match="not a shard of this project"):
        Shard(tmp_path / "other.arrow", "polar8", STFT)


def test_a_disk_that_cannot_be_read_is_no_damage(tmp_path, two_stems):
    path, row, _ = two_stems
    (tmp_path / "loop.arrow").symlink_to(tmp_path / "loop.arrow")
    with pytest.raises(StorageError, match=r"loop\.arrow: cannot be read \(Too many levels of symbolic links\)"):
        Shard(tmp_path / "loop.arrow", "polar8", STFT)
    with pytest.raises(StorageError, match="cannot be read"):
        verify(tmp_path / "loop.arrow", row)
    with pytest.raises(ShardError, match="missing"):
        verify(tmp_path / "gone.arrow", row)


def test_frames_beyond_the_end_are_refused(two_stems):
    out = np.zeros((2, 10, WIDTH), np.uint8)
    with pytest.raises(ShardError, match="ends before frame"):
        Shard(two_stems[0], "polar8", STFT).read_frames(2, 695, 10, out)


def test_nothing_has_the_shards_name_before_it_is_whole(tmp_path):
    with ShardWriter(tmp_path / "x.arrow", "polar8", STFT) as writer:
        writer.write(columns(10, 0))
        assert [p.name for p in tmp_path.iterdir()] == ["x.arrow.partial"]
        writer.close()
    assert [p.name for p in tmp_path.iterdir()] == ["x.arrow"]


def test_an_error_leaves_nothing(tmp_path):
    def interrupted() -> None:
        with ShardWriter(tmp_path / "x.arrow", "polar8", STFT) as writer:
            writer.write(columns(10, 0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("root")
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    full_device(tmp_path / "x.arrow.partial")
    with (
        pytest.raises(NoSpaceError, match=r"x\.arrow: no space left"),
        ShardWriter(tmp_path / "x.arrow", "polar8", STFT) as writer,
    ):
        writer.write(columns(10, 0))
    assert list(tmp_path.iterdir()) == []
