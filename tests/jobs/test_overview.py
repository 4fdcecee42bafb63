import json
import os

import pytest

from cluster.node.head import state_folder
from jobs.errors import RunFailed, UnknownRun
from jobs.queue.client import follow, stop_run
from jobs.queue.table import Ledger
from jobs.recipe import Recipe
from jobs.recipes.shipped import recipe_file
from jobs.reports.overview import details, find_run, overview
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import write_driver
from jobs.runs.summary import RunSummary
from tests.command_line import vr
from tests.jobs.ledgers import recorded
from tests.opened import opened_files
from vr_core.config import plain
from vr_core.errors import ConfigError


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    return create_run(Recipe(name="line", data=tmp_path / "data", out=tmp_path / "runs", steps=100))


def test_runs_are_listed_without_a_head_and_say_who_carries_them(run):
    attempt = run.begin_attempt()
    write_driver(run, attempt)
    run.write_state(state="running", attempt=attempt, step=7)
    run.metrics_file.write_text('{"kind": "step", "step": 7, "loss": 0.25}\n')
    [row] = overview(run.path.parent, None).rows
    assert (row.run, row.shown_state, row.step, row.loss, row.job) == (run.id, "running", 7, 0.25, None)

    driver = run.attempt_folder(attempt) / "driver.json"
    driver.write_text(json.dumps({**json.loads(driver.read_text()), "start_ticks": 0}))
    [row] = overview(run.path.parent, None).rows
    assert (row.state, row.shown_state) == ("running", "interrupted")
    with pytest.raises(RunFailed, match="nothing carries it any more"):
        follow(run, lambda state: None)
    assert stop_run(run, None).state == "stopped"


def test_one_damaged_run_does_not_hide_the_others(run, tmp_path):
    other = create_run(Recipe(name="other", data=tmp_path / "data", out=tmp_path / "runs", steps=100))
    run.state_file.write_text("{")
    assert {row.run: row.state for row in overview(tmp_path / "runs", None).rows} == {
        run.id: "damaged",
        other.id: "pending",
    }


def many(tmp_path, count: int) -> list[RunFolder]:
    """Runs whose states were written a minute after each other."""
    runs = [RunFolder(tmp_path / "many" / f"line-0000000{number % 10}-{number}") for number in range(count)]
    for number, run in enumerate(runs):
        run.path.mkdir(parents=True)
        run.recipe_file.touch()
        run.state_file.write_text(json.dumps({"state": "finished", "steps": 100, "updated_s": 60.0 * number}))
        os.utime(run.path, (0, 60 * number))
    return runs


def test_of_many_runs_the_newest_are_listed_and_no_other_is_read(run, tmp_path):
    """The defect: listing 10,000 runs read all of them, for 45 s."""
    runs = many(tmp_path, 40)
    for other in (10, 20):
        runs[other].summary_file.write_text(json.dumps(plain(RunSummary(steps=100, step=3, loss=0.5))))
        os.utime(runs[other].path, (0, 60 * other))
    with opened_files() as opened:
        found = overview(tmp_path / "many", None, newest=30)
    assert [row.run for row in found.rows] == [one.id for one in runs[10:]]
    assert found.has_older
    assert {row.run: row.loss for row in found.rows if row.loss is not None} == {runs[n].id: 0.5 for n in (10, 20)}
    read = [path for path in opened if "many" in path]
    assert [path for path in read if any(f"/{one.id}/" in path for one in runs[:10])] == []
    assert len(read) <= 5 * 30
    everything = overview(tmp_path / "many", None)
    assert ([row.run for row in everything.rows], everything.has_older) == ([one.id for one in runs], False)
    assert not overview(tmp_path / "many", None, newest=40).has_older


def test_the_list_is_of_thirty_runs_unless_more_are_asked_for(run, tmp_path):
    runs = many(tmp_path, 33)
    for arguments, count in (((), 30), (("--newest", "2"), 2), (("--newest", "33"), 33), (("--all",), 33)):
        listed = vr("jobs", "list", "--out", str(tmp_path / "many"), "--json", *arguments)
        assert [row["run"] for row in json.loads(listed.stdout)] == [one.id for one in runs[-count:]]
        assert (f"the newest {count}; --all lists every run" in listed.stderr) == (count < 33)


def test_a_run_that_is_resumed_is_among_the_newest(run, tmp_path):
    runs = many(tmp_path, 5)
    runs[0].give_notice("pending", "submitted")
    [row] = overview(tmp_path / "many", None, newest=1).rows
    assert (row.run, row.state, row.why) == (runs[0].id, "pending", "submitted")


def test_a_submitted_run_is_found_from_anywhere(run, tmp_path):
    with pytest.raises(UnknownRun):
        find_run(run.id, tmp_path / "elsewhere")
    recorded(Ledger(state_folder()), run)
    assert find_run(run.id, tmp_path / "elsewhere").path == run.path
    assert [row.submission for row in overview(tmp_path / "elsewhere", None).rows] == [f"{run.id}.a1"]


def test_all_about_one_run(run):
    found = details(run, None)
    assert found["recipe"]["steps"] == 100
    assert found["checkpoints"] == []
    assert json.loads(json.dumps(found)) == found


def test_predictions_are_shown_beside_what_came_of_them(run):
    lines = [
        {"kind": "sync", "step": 0, "plain": 4.0, "bf16": 2.0, "time_s": 0},
        *({"kind": "step", "step": 1 + n, "loss": 1.0, "step_s": 2.0 + n % 2} for n in range(64)),
        {"kind": "not_worth", "step": 0, "ranks": [1], "with_s": 0.93, "without_s": 0.41},
    ]
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    machines = [{"labels": {"vr/node": name}, "host": name, "device": "cpu"} for name in ("attic", "den")]
    origin = json.loads(run.origin_file.read_text())
    run.origin_file.write_text(json.dumps({**origin, "machines": {"1.1": machines}}))
    run.events_file.write_text('{"time_s": 1, "step": 0, "said": "start 1.1: all workers are there"}\n')
    found = details(run, None)
    assert found["sync"] == {"chosen": "bf16", "predicted_s": {"plain": 4.0, "bf16": 2.0}, "step_s": 2.5}
    assert found["not_worth"] == {"machines": ["den"], "with_s": 0.93, "without_s": 0.41}
    shown = vr("jobs", "show", run.id).stdout
    assert (
        "sync: bf16 (predicted for a step, as a mean over the run: plain 4.000 s, bf16 2.000 s); so far 2.500 s"
        in shown
    )
    assert "state: pending at step 0 of 100, " in shown
    assert "machines of start 1.1: attic, den\n" in shown
    assert f"folder: {run.path}\n" in shown
    assert "advice: without den a step would take 0.410 s, with all 0.930 s (predicted)" in shown


def test_the_commands_print_one_json_value(run):
    listed = vr("jobs", "list", "--json")
    assert [row["run"] for row in json.loads(listed.stdout)] == [run.id]
    shown = vr("jobs", "show", run.id, "--json")
    assert json.loads(shown.stdout)["state"] == "pending"
    table = vr("jobs", "list")
    assert run.id in table.stdout
    assert "no Ray head runs here" in table.stderr


@pytest.mark.parametrize(("state", "code"), [("finished", 0), ("stopped", 1)])
def test_watching_a_run_tells_by_its_exit_code_whether_it_finished(run, state, code):
    run.write_state(state=state)
    vr("jobs", "watch", run.id, code=code)


def test_a_recipe_is_a_file_or_one_that_comes_along(tmp_path):
    file = tmp_path / "mine.yaml"
    file.touch()
    assert recipe_file(str(file)) == file
    with pytest.raises(ConfigError, match="no such recipe file"):
        recipe_file("mine")
