import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.recipe import Recipe
from jobs.reports.display import SPARKS, display, duration, line, render, sparkline
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.progress import last_record, last_step
from jobs.runs.state import RunState
from jobs.runs.summary import Fold, RunSummary
from vr_core.config import plain
from vr_core.files import write_json


@pytest.fixture
def run(tmp_path) -> RunFolder:
    (tmp_path / "data").mkdir()
    return create_run(Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", steps=100))


def step(n: int, loss: float, time_s: float) -> dict:
    return {"kind": "step", "step": n, "loss": loss, "time_s": time_s}


RECORDS = [step(1, 4.0, 10.0), step(2, 2.0, 10.5), {"kind": "validation", "step": 2, "loss": 3.0}, step(3, 1.0, 11.0)]


def summary(*records: dict) -> RunSummary:
    fold = Fold()
    for record in records:
        fold.add(record)
    return fold.summary(103)


def test_a_running_job_in_one_line():
    state = RunState(state="running", step=2, steps=103)
    assert line("line-1", state, summary(*RECORDS)) == (
        "line-1: running, step 3/103, 2.00 steps/s, 0:50 left, loss 1, validation 3 at step 2"
    )
    wrong = {"kind": "validation", "step": 3, "loss": None}
    assert line("line-1", state, summary(*RECORDS, wrong)).endswith("validation not finite at step 3")


def test_a_job_that_waits_says_for_what_and_promises_nothing():
    state = RunState(state="pending", steps=103, why="waits: no machine")
    assert line("line-1", state, summary()) == "line-1: pending, step 0/103, waits: no machine"
    assert "left" not in line("line-1", state, summary(*RECORDS))


def test_the_live_view_shows_the_same():
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    state = RunState(state="running", step=2, steps=103, why="hm")
    console.print(render("line-1", state, summary(*RECORDS)))
    console.file.close()
    text = console.export_text()
    for part in ("line-1", "running", "3/103", "2.00 steps/s", "0:50 left", "loss 1", "█▅▁", "validation 3", "hm"):
        assert part in text


@pytest.mark.parametrize(
    ("values", "width", "bars"),
    [
        ([], 5, ""),
        ([3.0], 5, "▁"),
        ([1.0, 2.0, 4.0, 8.0], 4, "▁▃▆█"),
        ([1.0, 1.0, 8.0, 8.0], 2, "▁█"),
        ([-1.0, 0.0, 1.0], 9, "▁▅█"),
    ],
)
def test_sparkline(values, width, bars):
    assert sparkline(values, width) == bars


@given(st.lists(st.floats(-1e6, 1e6), max_size=200), st.integers(1, 60))
def test_a_sparkline_is_never_wider_than_asked(values, width):
    bars = sparkline(values, width)
    assert len(bars) == min(width, len(values))
    assert set(bars) <= set(SPARKS)


def test_durations():
    assert [duration(s) for s in (0, 59.6, 3599, 3600, 36_061)] == ["0:00", "1:00", "59:59", "1:00:00", "10:01:01"]


def test_the_last_step_is_that_of_the_metrics_else_of_the_checkpoint(run):
    assert (last_step(run), last_record(run, "step")) == (0, None)
    (run.checkpoints / "step-00000020").mkdir(parents=True)
    (run.checkpoints / "last").write_text("step-00000020")
    assert last_step(run) == 20
    lines = [json.dumps({"kind": "step", "step": n, "pad": "x" * 100}) for n in range(1, 2001)]
    run.metrics_file.write_text("\n".join([*lines, '{"kind": "validation", "step": 1999}', '{"kind": "st']))
    assert last_step(run) == 2000
    assert last_record(run, "validation") == {"kind": "validation", "step": 1999}


def test_the_last_validation_is_found_however_many_steps_came_after_it(run):
    """The defect: only the last 64 KiB were looked at, some 230 steps."""
    lines = [json.dumps({"kind": "step", "step": n, "pad": "x" * 100}) for n in range(1, 3001)]
    run.metrics_file.write_text("\n".join(['{"kind": "validation", "step": 1, "loss": 0.5}', *lines, ""]))
    assert last_record(run, "validation") == {"kind": "validation", "step": 1, "loss": 0.5}


def test_watching_reads_what_the_driver_tells_and_no_metrics(run, capsys):
    """The defect: watching a run of 200,000 steps kept all of its records, 475 MB."""
    summary = RunSummary(steps=100, step=7, loss=0.5)
    write_json(run.summary_file, plain(summary))
    run.metrics.mkdir()
    (run.metrics / "1.1.jsonl").mkdir()  # whoever opens it is told that it is none
    with display(run) as shown:
        shown.show(run.write_state(state="running"))
    assert capsys.readouterr().err == f"{run.id}: running, step 7/100, loss 0.5\n"


def test_a_run_of_an_earlier_version_is_watched_by_its_metrics(run, capsys):
    run.metrics_file.write_text('{"kind": "step", "step": 7, "loss": 0.5}\n')
    with display(run) as shown:
        shown.show(run.write_state(state="running"))
        run.metrics_file.write_text(
            '{"kind": "step", "step": 7, "loss": 0.5}\n{"kind": "step", "step": 8, "loss": 2}\n'
        )
        shown.show(run.write_state(state="stopped"))
    assert capsys.readouterr().err.splitlines() == [
        f"{run.id}: running, step 7/100, loss 0.5", f"{run.id}: stopped, step 8/100, loss 2",
    ]  # fmt: skip


def test_without_a_terminal_news_are_said_once(run, capsys):
    with display(run) as shown:
        for _ in range(3):
            shown.show(run.state())
        shown.show(run.write_state(state="running"))
    lines = capsys.readouterr().err.splitlines()
    assert [text.split(",")[0] for text in lines] == [f"{run.id}: pending", f"{run.id}: running"]
