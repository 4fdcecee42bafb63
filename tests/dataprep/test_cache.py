import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep.batches.loader import Loader, read_batch
from dataprep.batches.order import Order
from dataprep.errors import DataError, ShardError
from dataprep.shards.cache import Held, ShardCache, evicted, parse_bytes
from dataprep.shards.dataset import Dataset
from dataprep.shards.writer import ShardRow
from vr_core.specs.objectives import MaskedFramesSpec

SHARD_BYTES = 20 * 2**20


def made(path: Path, seed: int, count: int = SHARD_BYTES) -> ShardRow:
    """A file of noise: what is in a shard is nothing to the cache."""
    content = np.random.default_rng(seed).bytes(count)
    path.write_bytes(content)
    return ShardRow(codec="polar8", bytes=count, rows=1, sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def shard(tmp_path) -> tuple[Path, ShardRow]:
    return tmp_path / "a.arrow", made(tmp_path / "a.arrow", 0)


@pytest.fixture
def cache(tmp_path) -> ShardCache:
    return ShardCache(tmp_path / "cache", 3 * SHARD_BYTES)


def test_files_of_others_in_its_folder_make_no_room(tmp_path):
    cache = ShardCache(tmp_path / "cache", 2500)
    others = [cache.folder / name for name in ("holiday.arrow", "a.partial", "a.b.partial")]
    for path in others:
        path.write_bytes(b"mine")
        os.utime(path, (0, 0))  # what was not used for the longest time goes first
    for seed in range(3):
        path = tmp_path / f"{seed}.arrow"
        assert cache.stage(path, made(path, seed, 1000)) is not None
    assert all(path.read_bytes() == b"mine" for path in others)
    assert sum(file.bytes for file in cache.held()) == 2000


def left_in(cache: ShardCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("200GB", 200e9),
        ("1.5 TB", 1.5e12),
        ("512MiB", 512 * 2**20),
        ("7", 7),
        ("3kB", 3000),
        ("3KB", 3000),
        ("1KiB", 1024),
    ],
)
def test_sizes_are_read_as_people_write_them(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "1 gigabyte", "1e9", "nan"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(DataError, match="not a size; give for example 200GB"):
        parse_bytes(text)


FILES = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), max_size=8)


@given(FILES, st.integers(1, 60), st.integers(0, 200), st.sets(st.integers(0, 7)))
def test_what_makes_room(files, needed, quota, kept):
    held = [Held(Path(f"{i}.arrow"), size, used) for i, (size, used) in enumerate(files)]
    keep = {str(i) for i in kept}
    gone = evicted(held, needed, quota, keep)
    removable = [file for file in held if file.path.stem not in keep]
    least = sum(file.bytes for file in held) - sum(file.bytes for file in removable)
    assert (gone is None) == (least + needed > quota)
    if gone is not None:
        stay = [file for file in held if file not in gone]
        assert sum(file.bytes for file in stay) + needed <= quota
        assert all(file in removable for file in gone)
        assert all(old.used_s <= file.used_s for old in gone for file in removable if file in stay)
        if gone:  # none too many
            assert sum(file.bytes for file in [*stay, gone[-1]]) + needed > quota


def test_a_copy_is_the_shard_and_is_made_once(cache, shard):
    path, row = shard
    assert cache.find(row) is None
    seen = []
    copy = cache.stage(path, row, on_bytes=seen.append)
    assert copy.read_bytes() == path.read_bytes()
    assert sum(seen) == row.bytes
    path.unlink()
    assert cache.stage(path, row) == cache.find(row) == copy
    assert left_in(cache) == [copy.name]


def test_the_least_recently_used_makes_room_and_the_own_ones_do_not(tmp_path, cache):
    rows = [made(tmp_path / f"{i}", i) for i in range(5)]
    for i in range(3):
        copy = cache.stage(tmp_path / f"{i}", rows[i])
        os.utime(copy, (i, i))
    assert cache.find(rows[0]) is not None, "used now"
    assert cache.stage(tmp_path / "3", rows[3]) is not None
    assert [cache.find(row) is not None for row in rows] == [True, False, True, True, False]
    keep = {row.sha256 for row in rows}
    assert cache.stage(tmp_path / "4", rows[4], keep) is None
    assert len(left_in(cache)) == 3


STAGE = """
import sys
from pathlib import Path
from dataprep.shards.cache import ShardCache
from dataprep.shards.writer import ShardRow

def tell(count):
    print(count, flush=True)
    if sys.argv[2] == "wait":
        sys.stdin.read()

cache = ShardCache(Path(sys.argv[1]), int(sys.argv[3]))
for argument in sys.argv[4:]:
    path, row = argument.split("=", 1)
    cache.stage(Path(path), ShardRow.model_validate_json(row), on_bytes=tell)
"""


def staging(cache, kind, shards, **options):
    arguments = [f"{path}={row.model_dump_json()}" for path, row in shards]
    argv = [sys.executable, "-c", STAGE, str(cache.folder), kind, str(cache.quota_bytes), *arguments]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


@pytest.fixture
def killed(cache, shard):
    """A process that copied a part and was killed."""
    process = staging(cache, "wait", [shard])
    assert process.stdout.readline() == f"{8 * 2**20}\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stdin.close()
    assert left_in(cache) == [f"{shard[1].sha256}.{SHARD_BYTES}.partial"]
    assert [held.bytes for held in cache.held()] == [SHARD_BYTES], "its room is its own"


def test_a_killed_copy_goes_on_where_it_was(cache, shard, killed):
    path, row = shard
    whole = path.read_bytes()
    path.write_bytes(b"?" * 2**20 + whole[2**20 :])  # of what it has it reads nothing again
    assert cache.stage(path, row).read_bytes() == whole
    assert left_in(cache) == [f"{row.sha256}.arrow"]


def test_half_a_copy_that_is_wrong_is_made_again(cache, shard, killed):
    path, row = shard
    [partial] = cache.folder.glob("*.partial")
    partial.write_bytes(b"?" * 1000)
    assert cache.stage(path, row).read_bytes() == path.read_bytes()


def test_a_killed_copy_makes_room_for_others(tmp_path, cache, shard, killed):
    for i in range(1, 4):
        assert cache.stage(tmp_path / f"{i}", made(tmp_path / f"{i}", i)) is not None
    assert not list(cache.folder.glob("*.partial"))


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b[:99] + b"x" + b[100:]])
def test_a_shard_that_is_not_its_manifests_is_refused_and_leaves_nothing(cache, shard, change):
    path, row = shard
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ShardError, match=r"a\.arrow: damaged \(its bytes are not those of its manifest"):
        cache.stage(path, row)
    assert left_in(cache) == []


def test_a_missing_shard_is_named(cache, shard):
    path, row = shard
    path.unlink()
    with pytest.raises(ShardError, match=r"a\.arrow: missing"):
        cache.stage(path, row)


def test_two_jobs_at_once_make_whole_copies_within_the_quota(tmp_path, cache):
    shards = [(tmp_path / f"{i}", made(tmp_path / f"{i}", i)) for i in range(6)]
    jobs = [staging(cache, "go", order) for order in (shards[:4], shards[2:][::-1], shards[1:5])]
    for job in jobs:
        job.communicate(timeout=100)
        assert job.returncode == 0
    assert sum(held.bytes for held in cache.held()) <= cache.quota_bytes
    names = left_in(cache)
    assert len(names) == 3
    for name in names:
        assert hashlib.sha256((cache.folder / name).read_bytes()).hexdigest() == name.removesuffix(".arrow")


@pytest.mark.usefixtures("root")
def test_a_full_cache_disk_is_named_and_left_as_it_was(tmp_path, shard):
    (tmp_path / "disk").mkdir()
    code = (
        "import sys, os; from pathlib import Path; from dataprep.shards.cache import ShardCache\n"
        "from dataprep.shards.writer import ShardRow; from dataprep.errors import NoSpaceError\n"
        "cache = ShardCache(Path(sys.argv[1]) / 'cache', 10**9)\n"
        "try: cache.stage(Path(sys.argv[2]), ShardRow.model_validate_json(sys.argv[3]))\n"
        "except NoSpaceError as error: print(error, [p.name for p in cache.folder.iterdir() if p.suffix != '.lock'])"
    )
    mounted = 'mount -t tmpfs -o size=9m tmpfs "$2" && exec "$0" -c "$1" "$2" "$3" "$4"'
    argv = ["unshare", "--mount", "sh", "-c", mounted, sys.executable, code]
    argv += [str(tmp_path / "disk"), str(shard[0]), shard[1].model_dump_json()]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert "no space left on the disk" in said
    assert said.endswith("[]\n")


@pytest.fixture
def folder(small):
    return small / "data"


@pytest.fixture
def own(folder, tmp_path):
    """A data set of its own for the test, and its cache."""
    for file in folder.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path, ShardCache(tmp_path / "cache", 10**9)


def items_of(data):
    order = Order.of(data.manifest, MaskedFramesSpec(), 0, 32)
    return [order.items(first, 4) for first in range(0, 24, 4)]


def values(batch):
    return {(role, name): column.clone() for role, stem in batch.slots.items() for name, column in stem.columns.items()}


def equal(one, other):
    return one.keys() == other.keys() and all(bool((one[key] == other[key]).all()) for key in one)


def test_what_is_staged_is_read_from_the_copy_also_by_a_loader_that_runs(own):
    folder, cache = own
    batches = items_of(Dataset.open(folder))
    wanted = [values(read_batch(Dataset.open(folder), items)) for items in batches]
    data = Dataset.open(folder, cache)

    def staged_after_the_first():
        yield batches[0]
        assert data.stage().copied == tuple(sorted(data.manifest.shards))
        for name in data.manifest.shards:
            os.truncate(folder / name, 10)  # whoever still read there would notice
        yield from batches[1:]

    loader = Loader(data, staged_after_the_first())
    for batch, want in zip(loader, wanted, strict=True):
        assert equal(values(batch), want)
    again = Dataset.open(folder, cache)
    assert equal(values(read_batch(again, batches[3])), wanted[3])
    assert again.stage().there == tuple(sorted(data.manifest.shards))


def test_a_copy_that_does_not_open_is_dropped_and_the_shard_is_read(own):
    folder, cache = own
    data = Dataset.open(folder, cache)
    data.stage()
    for path in cache.folder.glob("*.arrow"):
        path.write_bytes(b"?" * path.stat().st_size)
    batches = items_of(data)
    got = values(read_batch(Dataset.open(folder, cache), batches[0]))
    assert equal(got, values(read_batch(Dataset.open(folder), batches[0])))
    assert len(list(cache.folder.glob("*.arrow"))) < len(data.manifest.shards)


def test_without_a_cache_there_is_nothing_to_stage_into(folder):
    with pytest.raises(ValueError, match="without a cache"):
        Dataset.open(folder).stage()
