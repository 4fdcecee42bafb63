"""Checkpoints: whole or not at all, retention, and the newest good one is found whatever happened to the others."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from jobs.checkpoints.format import best_loss, mend_pointers, read_newest
from jobs.checkpoints.writing import superseded
from jobs.runs.folder import RunFolder
from jobs.runs.lookup import resolve_weights
from tests.jobs.checkpoints import write_example as write
from tests.small_disk import PAGE_BYTES, small_disk
from vr_core.errors import StorageError


def test_what_is_written_is_read_back(run: RunFolder) -> None:
    write(run, 5, 0.5, loss=1.25, best=True)
    checkpoint, problems = read_newest(run)
    assert problems == []
    assert (checkpoint.row.step, checkpoint.row.position, checkpoint.row.validation_loss) == (5, 40, 1.25)
    assert all((w == 0.5).all() for w in checkpoint.weights.values())
    assert torch.equal(checkpoint.training["moments"], torch.arange(3))
    assert best_loss(run) == 1.25
    assert resolve_weights(run.path) == run.checkpoints / "step-00000005" / "weights.safetensors"
    assert resolve_weights(Path(run.id), run.path.parent) == resolve_weights(run.path), "by its name too"


def test_retention_keeps_the_newest_and_the_best() -> None:
    names = [f"step-{n:08d}" for n in (1, 2, 3, 4, 5)]
    assert superseded(names, names[1], keep=2) == [names[0], names[2]]
    assert superseded(names[:2], None, keep=2) == []
    assert superseded(list(reversed(names)), None, keep=1) == names[:4]


def test_old_checkpoints_go_and_the_best_stays(run: RunFolder) -> None:
    for step in range(1, 6):
        write(run, step, step, loss=float(step), best=step == 2)
    assert sorted(p.name for p in run.checkpoints.iterdir()) == [
        "best", "last", "step-00000002", "step-00000004", "step-00000005",
    ]  # fmt: skip
    assert best_loss(run) == 2.0


@pytest.mark.parametrize("harm", ["cut training", "flip weights", "no row", "row is not JSON", "empty row"])
def test_a_damaged_checkpoint_is_passed_over_with_a_line(run: RunFolder, harm: str) -> None:
    write(run, 1, 1.0)
    newest = write(run, 2, 2.0)
    if harm == "cut training":
        data = (newest / "training.pt").read_bytes()
        (newest / "training.pt").write_bytes(data[: len(data) // 2])
    elif harm == "flip weights":
        data = bytearray((newest / "weights.safetensors").read_bytes())
        data[-3] ^= 1
        (newest / "weights.safetensors").write_bytes(data)
    elif harm == "no row":
        (newest / "checkpoint.json").unlink()
    else:
        (newest / "checkpoint.json").write_text("" if harm == "empty row" else "{")
    checkpoint, problems = read_newest(run)
    assert checkpoint.row.step == 1
    assert len(problems) == 1
    assert "step-00000002" in problems[0]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose reading fails")
@pytest.mark.parametrize("name", ["checkpoint.json", "weights.safetensors", "training.pt"])
def test_a_disk_that_cannot_be_read_is_no_damage(run: RunFolder, name: str) -> None:
    write(run, 1, 1.0)
    newest = write(run, 2, 2.0)
    (newest / name).rename(run.path / name)
    (newest / name).symlink_to("/proc/self/mem")  # reading its first byte is EIO, as of a bad sector
    with pytest.raises(StorageError, match=r"step-00000002: cannot be read \(Input/output error\)"):
        read_newest(run)
    (newest / name).unlink()
    (run.path / name).rename(newest / name)
    assert read_newest(run)[0].row.step == 2


def test_a_damaged_best_checkpoint_gives_way_to_the_best_of_the_others(run: RunFolder) -> None:
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.5), (4, 2.0), (5, None)):
        write(run, step, step, loss=loss, best=step <= 2, keep=9)
    newest, _ = read_newest(run)
    assert mend_pointers(run, newest) == []
    assert best_loss(run) == 1.0
    for step, then in ((2, "step-00000004"), (4, "step-00000003")):
        (run.checkpoints / f"step-{step:08d}" / "weights.safetensors").write_bytes(b"cut")
        [line] = mend_pointers(run, newest)
        assert f"step-{step:08d} is damaged; {then} is the best of the others" in line
        assert resolve_weights(run.path).parent.name == then
    shutil.rmtree(run.checkpoints / "step-00000003")
    shutil.rmtree(run.checkpoints / "step-00000001")
    assert "the next validation decides anew" in mend_pointers(run, newest)[0]
    assert best_loss(run) == float("inf")
    assert resolve_weights(run.path).parent.name == "step-00000005"


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"step-0000000\xff", b"../../etc", b"step-00000009"])
def test_a_pointer_with_a_bad_byte_is_mended_at_the_next_start(run: RunFolder, damage: bytes) -> None:
    """The defect: it ended every start of the run, for good."""
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.5)):
        write(run, step, step, loss=loss, best=step <= 2, keep=9)
    (run.checkpoints / "best").write_bytes(damage)
    assert best_loss(run) == float("inf")
    (run.checkpoints / "last").write_bytes(damage)
    assert run.last_step() == (9 if damage == b"step-00000009" else 3)
    newest, _ = read_newest(run)
    [line] = mend_pointers(run, newest)
    assert "is damaged; step-00000002 is the best of the others" in line
    assert [(run.checkpoints / name).read_text() for name in ("last", "best")] == ["step-00000003\n", "step-00000002\n"]
    (run.checkpoints / "best").write_bytes(damage)
    write(run, 4, 4.0, keep=1)
    assert len(list(run.checkpoints.glob("step-*"))) == 4, "any of them may be the best one"
    write(run, 5, 5.0, loss=0.5, best=True, keep=1)
    assert [path.name for path in run.checkpoints.glob("step-*")] == ["step-00000005"]


def test_a_damaged_newer_checkpoint_does_not_cost_the_ones_written_after_it(run: RunFolder) -> None:
    write(run, 10, 1.0)
    (write(run, 20, 2.0) / "training.pt").unlink()
    (write(run, 30, 3.0) / "training.pt").unlink()
    for step in (12, 14):
        write(run, step, float(step), keep=1)
        assert read_newest(run)[0].row.step == step
    assert not (run.checkpoints / "step-00000010").exists()


def test_what_a_killed_writer_left_is_removed(run: RunFolder) -> None:
    (run.checkpoints / ".step-00000001.99").mkdir(parents=True)
    write(run, 2, 1.0)
    assert not list(run.checkpoints.glob(".*"))


def test_nothing_yet_is_no_problem(run: RunFolder) -> None:
    assert read_newest(run) == (None, [])
    assert best_loss(run) == float("inf")


def test_a_checkpoint_loads_without_unpickling_code(run: RunFolder) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (run.path / "owned",))

    step = write(run, 1, 1.0)
    torch.save({"step": 1, "evil": Payload()}, step / "training.pt")
    row = json.loads((step / "checkpoint.json").read_text())
    import hashlib

    row["sha256"]["training.pt"] = hashlib.sha256((step / "training.pt").read_bytes()).hexdigest()
    (step / "checkpoint.json").write_text(json.dumps(row))
    checkpoint, problems = read_newest(run)
    assert checkpoint is None
    assert len(problems) == 1
    assert not (run.path / "owned").exists()


@pytest.mark.parametrize("pages", [0, 3], ids=["weights", "training"])
def test_a_failed_write_leaves_the_earlier_checkpoint(tmp_path: Path, pages: int) -> None:
    """Whichever file it is that finds no room."""
    with small_disk(tmp_path / "disk", kib=512) as disk:
        run = RunFolder(disk.path / "demo-00000000-1")
        run.path.mkdir()
        write(run, 1, 1.0)
        (disk.path / "room").write_bytes(bytes(pages * PAGE_BYTES))
        disk.fill()
        (disk.path / "room").unlink()
        with pytest.raises(
            StorageError, match=r"/step-00000002: .*[Nn]o space left.*vr jobs resume /.*demo-00000000-1"
        ):
            write(run, 2, 2.0)
        disk.free()
        checkpoint, problems = read_newest(run)
        assert checkpoint.row.step == 1
        assert problems == []
        assert not list(run.checkpoints.glob(".*"))
