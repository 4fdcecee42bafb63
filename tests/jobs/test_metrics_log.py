"""Metrics: one line a step, a resumed run without a seam, also after a kill in the middle of a line."""

import json
from pathlib import Path

import pytest

from jobs.metrics_log import MetricsLog, read_metrics
from jobs.runs import RunFolder
from tests.small_disk import PAGE_BYTES, small_disk


def write(run: RunFolder, first: int, last: int) -> None:
    with MetricsLog(run, first - 1, tensorboard=False) as metrics:
        for step in range(first, last + 1):
            metrics.write("step", step, loss=step / 2)


def test_steps_that_are_computed_again_are_written_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write(run, 1, 7)
    with run.metrics_file.open("a") as file:
        file.write('{"kind": "step", "step": 8, "lo')  # a kill in the middle of a line
    write(run, 5, 9)
    lines = list(read_metrics(run.metrics_file))
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert [line["loss"] for line in lines] == [step / 2 for step in range(1, 10)]
    assert all(json.loads(text) for text in run.metrics_file.read_text().splitlines())


def test_a_skipped_step_is_json_too(tmp_path: Path) -> None:
    with MetricsLog(RunFolder(tmp_path), 0, tensorboard=False) as metrics:
        metrics.write("step", 1, loss=float("nan"), lr=0.5)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert "NaN" not in line
    assert json.loads(line)["loss"] is None


def test_tensorboard_reads_the_curve(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricsLog(RunFolder(tmp_path), 0, tensorboard=True) as metrics:
        metrics.write("step", 1, loss=3.0)
        metrics.write("validation", 1, loss=4.0)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("step/loss")] == [(1, 3.0)]
    assert [(e.step, e.value) for e in board.Scalars("validation/loss")] == [(1, 4.0)]


@pytest.mark.parametrize("written", [0, 10, 100])
def test_a_disk_that_is_full_for_a_while_costs_no_line_and_doubles_none(tmp_path, capsys, written):
    """What was written of lines before the disk was full (up to the end of a page) is no part of the log."""
    with small_disk(tmp_path / "disk", kib=64) as disk:
        run = RunFolder(disk.path)
        before = {"kind": "step", "step": 1, "pad": ""}
        before["pad"] = "x" * (PAGE_BYTES - written - len(json.dumps(before) + "\n"))
        run.metrics_file.write_text(json.dumps(before) + "\n")
        with MetricsLog(run, 1, tensorboard=False) as log:
            disk.fill()
            for step in (2, 3):
                log.write("step", step, loss=float(step))
                log.flush()
            assert run.metrics_file.stat().st_size == PAGE_BYTES
            disk.free()
            log.write("step", 4, loss=4.0)
        assert [line["step"] for line in read_metrics(run.metrics_file)] == [1, 2, 3, 4]
        assert run.metrics_file.read_text().count("\n") == 4
    assert capsys.readouterr().err.count("not written now (No space left on device)") == 1
