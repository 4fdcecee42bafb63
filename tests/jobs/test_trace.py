"""`vr trace`: the timeline is what the steps say, of the newest start, under its first shares and its last."""

import json

import pytest

from jobs.errors import NoSteps
from jobs.recipe import Recipe
from jobs.reports.trace import timelines
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from tests.command_line import vr
from vr_core.files import write_json

MACHINES = [
    {"host": "attic", "device": "NVIDIA GeForce RTX 3090 Ti", "labels": {"vr/node": "attic"}},
    {"host": "cellar.lan", "device": "cpu", "labels": {}},
]


@pytest.fixture
def run(tmp_path) -> RunFolder:
    (tmp_path / "data").mkdir()
    run = create_run(Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", steps=100))
    write_json(run.origin_file, {"machines": {"1.1": MACHINES[:1], "1.2": MACHINES}})
    return run


def test_a_clock_that_was_set_back_hides_no_steps(run):
    """The supervisor's clock says when a start was ready, rank 0's when a step was taken."""
    write(run, [(10 + i, [8, 8], [1.0, 2.0], 2.5) for i in range(20)])
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    run.metrics_file.write_text("".join(json.dumps({**line, "time_s": line["time_s"] - 3600}) + "\n" for line in lines))
    assert timelines(run)[0].last_step == 29


def write(run, steps, started_s=100.0, kinds=True):
    """Steps as (step, shares, busy_s, step_s), one a second from `started_s` on; events without kinds are old ones."""
    ready = {"attempt": 1, "kind": "workers_ready"}
    events = [
        {"time_s": 1.0, "step": 0, **ready, "start": "1.1", "said": "start 1.2: all workers are there"},
        {"time_s": started_s, "step": 9, **ready, "start": "1.2", "said": "in any other words"},
        {"time_s": started_s + 1, "attempt": 1, "step": 9, "kind": "lost", "said": "attic is fine"},
    ]
    if not kinds:
        events = [
            {"time_s": 1.0, "attempt": 1, "step": 0, "said": "start 1.1: all workers are there"},
            {"time_s": started_s, "attempt": 1, "step": 9, "said": "start 1.2: all workers are there"},
            {"time_s": started_s + 1, "attempt": 1, "step": 9, "said": "attic is fine"},
        ]
    run.events_file.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"cut sho')
    old = {"kind": "step", "step": 1, "shares": [16], "busy_s": [9.0], "step_s": 9.0, "time_s": 50.0}
    lines = [
        {"kind": "step", "step": step, "shares": shares, "busy_s": busy, "step_s": took, "time_s": started_s + step}
        for step, shares, busy, took in steps
    ]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in [old, *lines]))


@pytest.mark.parametrize("kinds", [True, False])
def test_before_and_after_are_medians_of_the_newest_start(run, kinds):
    cold = [(step, [8, 8], [7.0, 9.0], 9.5) for step in (10, 11)]
    early = [(12 + i, [8, 8], [1.0, 3.0 + 0.1 * (i == 3)], 3.5 + 20 * (i == 5)) for i in range(9)]
    late = [(21 + i, [12, 4], [1.5, 1.6], 2.0) for i in range(30)]
    write(run, [*cold, *early, *late], kinds=kinds)
    before, after = timelines(run)
    assert [(bar.machine, bar.items, bar.busy_s) for bar in before.bars] == [
        ("attic (GeForce RTX 3090 Ti)", 8, 1.0), ("cellar.lan", 8, 3.0),
    ]  # fmt: skip
    assert (before.first_step, before.last_step, before.step_s) == (12, 19, 3.5)
    assert before.exchange_s == 0.5
    assert (after.first_step, after.last_step, after.items_per_s) == (43, 50, 8.0)
    assert after.reached == pytest.approx(8 / (12 / 1.5 + 4 / 1.6))


def test_no_machine_is_busy_for_longer_than_the_step(run):
    """Medians are of different steps: of these, the busy times' is 1.2 s and the steps' 1 s."""
    write_json(run.origin_file, {"machines": {"1.2": MACHINES[:1]}})
    write(run, [(step, [16], [1.2 if step % 3 else 0.1], 1.0) for step in range(10, 30)])
    (line,) = timelines(run)
    assert (line.step_s, line.exchange_s, line.reached) == (1.2, 0.0, pytest.approx(1))
    assert line.plain()["workers"][0]["waits_s"] == 0


def test_shares_that_never_changed_are_one_timeline(run):
    write(run, [(step, [8, 8], [1.0, 1.0], 1.0) for step in range(10, 30)])
    assert len(timelines(run)) == 1


def test_a_run_that_has_just_begun_says_so(run):
    with pytest.raises(NoSteps, match="too few steps"):
        timelines(run)
    write(run, [(step, [8, 8], [1.0, 1.0], 1.0) for step in (10, 11, 12)])
    with pytest.raises(NoSteps):
        timelines(run)


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_command_prints_and_draws(run, tmp_path, ending):
    write(run, [(10 + i, [8, 8] if i < 9 else [11, 5], [1.0, 2.0], 2.5) for i in range(30)])
    picture = tmp_path / f"steps.{ending}"
    told = json.loads(vr("trace", run.path, "-o", picture, "--json").stdout.splitlines()[0])
    assert [[worker["items"] for worker in line["workers"]] for line in told["timelines"]] == [[8, 8], [11, 5]]
    assert told["timelines"][1]["workers"][1]["waits_s"] == 0.5
    drawn = picture.read_bytes()
    assert drawn.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    assert len(drawn) > 5000
    assert "11" in vr("trace", run.path).stdout
    both = vr("trace", run.path, run.path, "--json").stdout
    assert [line["last_step"] for line in json.loads(both)["timelines"]] == [39, 39], "the newest steps of each"


def test_a_picture_of_no_known_kind_is_refused(run, tmp_path):
    done = vr("trace", run.path, "-o", tmp_path / "steps.doc", code=2)
    assert "expected a file that ends in .png" in done.stderr


def test_show_tells_what_happened_to_the_run(run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write(run, [])
    shown = vr("jobs", "show", run.path)
    events = [line for line in shown.stdout.splitlines() if line.startswith("event: ")]
    assert len(events) == 3, "the line that was cut short is left out"
    assert events[-1].endswith("step 9: attic is fine")
