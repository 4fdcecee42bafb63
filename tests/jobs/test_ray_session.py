"""A Ray that does not come up in its own time: tried again, then one line, and no run is left behind."""

import pytest
import ray

from cluster.errors import ClusterFailure
from jobs.execution import launch, ray_session
from jobs.execution.ray_session import STARTS, connect
from jobs.runs.creation import create_run
from jobs.runs.lookup import list_runs
from tests.command_line import vr
from tests.jobs.training import recipe_of
from vr_core.config import to_yaml

LATE = "The current node timed out during startup. This could happen\nbecause some of the raylet failed to startup."


@pytest.fixture
def slow(monkeypatch):
    """Ray's start as on a slow PC: it raises so often, as Ray does; how often it was tried is counted."""

    def with_failures(failures):
        tries = []

        def init(**arguments):
            tries.append(arguments)
            if len(tries) <= failures:
                raise Exception(LATE)  # of Ray's node.py, of no kind of its own

        monkeypatch.setattr(ray, "init", init)
        return tries

    return with_failures


def test_a_start_that_took_too_long_is_tried_again(slow, capfd):
    tries = slow(STARTS - 1)
    connect(address="local", num_cpus=1)
    assert tries == [{"address": "local", "num_cpus": 1}] * STARTS
    assert capfd.readouterr().err.count("Ray did not start (The current node timed out") == STARTS - 1


def test_one_that_never_comes_up_is_one_line(slow):
    tries = slow(99)
    with pytest.raises(ClusterFailure) as told:
        connect(address="10.0.0.1:6379")
    assert len(tries) == STARTS
    assert str(told.value).startswith(f"no connection to Ray at 10.0.0.1:6379 in {STARTS} tries (The current node")
    assert "\n" not in str(told.value)


def test_a_job_that_finds_no_ray_leaves_its_run_to_the_keeper(slow, recipe, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    run = create_run(recipe_of(tmp_path / "data", out=str(tmp_path / "runs")))
    before = run.begin_attempt()
    monkeypatch.setattr(ray_session, "require_own_at", lambda address: None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    tries = slow(99)
    assert launch.main([str(run.path), str(before), "--recipe", str(run.recipe_file)]) == 1
    assert len(tries) == STARTS
    assert "no connection to Ray at 10.0.0.1:6379 in 3 tries" in capsys.readouterr().err.splitlines()[-1]
    assert run.state().state == "pending"


@pytest.fixture
def recipe(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / "tiny.yaml"
    file.write_text(
        to_yaml(recipe_of(tiny_data, out=str(tmp_path / "runs"), steps=8, **{"validation.every_steps": 1})),
        encoding="utf-8",
    )
    return file


@pytest.mark.parametrize("command", ["train", "tune"])
def test_where_ray_does_not_start_no_run_is_made(command, slow, recipe, tmp_path):
    slow(99)
    more = ["tune={space: {optim.lr: [0.1, 0.2]}, grace_steps: 1}"] if command == "tune" else []
    said = vr(command, str(recipe), *more, code=1)
    assert "Traceback" not in said.stderr
    assert said.stderr.splitlines()[-1].startswith("vr: Ray did not start in")
    assert not (tmp_path / "runs").exists() or not [*(tmp_path / "runs").iterdir()]


@pytest.mark.parametrize("command", ["train", "tune", "submit"])
def test_what_is_no_data_set_is_told_before_ray_starts_or_a_run_is_made(command, slow, recipe, tmp_path, monkeypatch):
    tries = slow(99)
    monkeypatch.setattr("cluster.node.head.find_head", lambda: None)
    empty = tmp_path / "music"
    empty.mkdir()
    more = ["tune={space: {optim.lr: [0.1, 0.2]}, grace_steps: 1}"] if command == "tune" else []
    said = vr(command, str(recipe), f"data={empty}", *more, code=2)
    assert f"{empty}: is not a data set" in said.stderr
    assert tries == []
    assert [*list_runs(tmp_path / "runs")] == []


@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_folder_that_cannot_be_written_is_told_before_ray_starts(command, slow, recipe, tmp_path):
    tries = slow(99)
    (tmp_path / "file").write_text("mine")
    more = ["tune={space: {optim.lr: [0.1, 0.2]}, grace_steps: 1}"] if command == "tune" else []
    said = vr(command, str(recipe), f"out={tmp_path / 'file' / 'runs'}", *more, code=1)
    assert f"out {tmp_path / 'file' / 'runs'}: cannot be written" in said.stderr
    assert tries == []


def test_a_recipe_that_has_no_room_here_makes_no_run(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr("jobs.execution.membership.ray_nodes", lambda: [])
    said = vr("train", str(recipe), code=2)
    assert "no machine has 1 free CPU core(s)" in said.stderr
    assert "vr cluster head" in said.stderr
    assert [*list_runs(tmp_path / "runs")] == []
