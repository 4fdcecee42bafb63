import json

import pytest

from cluster.head import state_folder
from jobs.control import follow, stop_run
from jobs.driver import write_driver
from jobs.errors import RunFailed, UnknownRun
from jobs.ledger import Ledger
from jobs.overview import details, find_run, overview
from jobs.recipe import Recipe
from jobs.runs import RunFolder, create_run
from jobs.shipped import recipe_file
from tests.command_line import vr
from tests.jobs.ledgers import recorded
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
    [row] = overview(run.path.parent, None)
    assert (row.run, row.shown_state, row.step, row.loss, row.job) == (run.id, "running", 7, 0.25, None)

    driver = run.attempt_folder(attempt) / "driver.json"
    driver.write_text(json.dumps({**json.loads(driver.read_text()), "start_ticks": 0}))
    [row] = overview(run.path.parent, None)
    assert (row.state, row.shown_state) == ("running", "interrupted")
    with pytest.raises(RunFailed, match="nothing carries it any more"):
        follow(run, lambda state: None)
    assert stop_run(run, None).state == "stopped"


def test_one_damaged_run_does_not_hide_the_others(run, tmp_path):
    other = create_run(Recipe(name="other", data=tmp_path / "data", out=tmp_path / "runs", steps=100))
    run.state_file.write_text("{")
    assert {row.run: row.state for row in overview(tmp_path / "runs", None)} == {run.id: "damaged", other.id: "pending"}


def test_a_submitted_run_is_found_from_anywhere(run, tmp_path):
    with pytest.raises(UnknownRun):
        find_run(run.id, tmp_path / "elsewhere")
    recorded(Ledger(state_folder()), run)
    assert find_run(run.id, tmp_path / "elsewhere").path == run.path
    assert [row.submission for row in overview(tmp_path / "elsewhere", None)] == [f"{run.id}.a1"]


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
