"""Metrics: one line a step, a resumed run without a seam, also after a kill in the middle of a line."""

import json
from pathlib import Path

import pytest

from jobs.runs.folder import RunFolder
from jobs.runs.metrics import MetricsLog, read_metrics
from jobs.runs.progress import last_record, last_step
from jobs.runs.starts import begin_start
from tests.small_disk import PAGE_BYTES, small_disk


def write(run: RunFolder, first: int, last: int) -> None:
    with MetricsLog(run, begin_start(run), first - 1, tensorboard=False) as metrics:
        for step in range(first, last + 1):
            metrics.write("step", step, loss=step / 2)


def test_steps_that_are_computed_again_are_written_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write(run, 1, 7)
    with (run.metrics / "0.1.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 8, "lo')  # a kill in the middle of a line
    write(run, 5, 9)
    lines = list(read_metrics(run))
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert [line["loss"] for line in lines] == [step / 2 for step in range(1, 10)]


def test_a_skipped_step_is_json_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with MetricsLog(run, begin_start(run), 0, tensorboard=False) as metrics:
        metrics.write("step", 1, loss=float("nan"), lr=0.5)
    (_, line) = (run.metrics / "0.1.jsonl").read_text().splitlines()
    assert "NaN" not in line
    assert json.loads(line)["loss"] is None


def test_tensorboard_reads_the_curve(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunFolder(tmp_path)
    with MetricsLog(run, begin_start(run), 0, tensorboard=True) as metrics:
        metrics.write("step", 1, loss=3.0)
        metrics.write("validation", 1, loss=4.0)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("step/loss")] == [(1, 3.0)]
    assert [(e.step, e.value) for e in board.Scalars("validation/loss")] == [(1, 4.0)]


@pytest.mark.parametrize("room", [10, 40])
def test_a_disk_that_is_full_for_a_while_costs_no_line_and_doubles_none(tmp_path, capsys, room):
    """What was written of lines before the disk was full (up to the end of a page) is no part of the log."""
    with small_disk(tmp_path / "disk", kib=64) as disk:
        run = RunFolder(disk.path)
        file = run.metrics / "0.1.jsonl"
        with MetricsLog(run, begin_start(run), 0, tensorboard=False) as log:
            log.write("short", 1)
            log.flush()
            *_, line = file.read_bytes().splitlines(keepends=True)
            log.write("long" + "g" * (PAGE_BYTES - file.stat().st_size - len(line) - room), 1)
            log.flush()
            assert 0 < PAGE_BYTES - file.stat().st_size < room + 10  # a time has some digits more or less
            disk.fill()
            for step in (2, 3):
                log.write("step", step, loss=float(step))
                log.flush()
            assert file.stat().st_size == PAGE_BYTES
            assert [line["step"] for line in read_metrics(run)] == [1, 1]
            disk.free()
            log.write("step", 4, loss=4.0)
        assert [line["step"] for line in read_metrics(run)] == [1, 1, 2, 3, 4]
        assert file.read_text().count("\n") == 6
    assert capsys.readouterr().err.count("not written now (No space left on device)") == 1


@pytest.mark.parametrize("place", range(0, 420, 7))
def test_one_bad_byte_costs_one_line_and_not_the_run(tmp_path: Path, place: int) -> None:
    """The defect: a byte that is no UTF-8 ended every start that read the file, for good."""
    run = RunFolder(tmp_path)
    old = [json.dumps({"kind": "step", "step": step, "loss": step / 2, "time_s": 1.0}) + "\n" for step in range(1, 9)]
    data = bytearray("".join(old).encode())
    assert len(data) > 420
    data[place] = 0xFF
    run.metrics_file.write_bytes(data)
    hit = "".join(old)[:place].count("\n") + 1
    lost = {hit, hit + 1} if "".join(old)[place] == "\n" else {hit}
    kept = [step for step in range(1, 9) if step not in lost]
    assert [line["step"] for line in read_metrics(run)] == kept
    assert last_step(run) == kept[-1]
    with MetricsLog(run, begin_start(run), 6, tensorboard=False) as metrics:
        metrics.write("step", 7, loss=7.0)
    assert [line["step"] for line in read_metrics(run)] == [*(step for step in kept if step <= 6), 7]


@pytest.mark.parametrize(
    "damage", [b"null", b"[]", b"7", b'{"step": 3}', b'{"kind": "step"}', b'{"kind": 3, "step": 3}']
)
def test_a_line_that_says_something_else_is_passed_over(tmp_path: Path, damage: bytes) -> None:
    run = RunFolder(tmp_path)
    run.metrics_file.write_bytes(b'{"kind": "step", "step": 1}\n' + damage + b'\n{"kind": "step", "step": 2}\n')
    assert [line["step"] for line in read_metrics(run)] == [1, 2]
    assert last_step(run) == 2


def test_a_line_of_any_length_is_found_from_the_end(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with run.metrics_file.open("w") as file:
        for step, pad in enumerate((0, 65_500, 65_536, 200_000, 3, 131_072), start=1):
            file.write(json.dumps({"kind": f"kind{step}", "step": step, "pad": "x" * pad}) + "\n")
        file.write('{"kind": "kind7", "step": 7, "pad": "' + "x" * 70_000)
    assert [(last_record(run, f"kind{step}") or {}).get("step") for step in range(1, 8)] == [1, 2, 3, 4, 5, 6, None]
