"""`vr train` as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jobs.runs.lookup import list_runs
from tests.jobs.training import recipe_of
from vr_core.config import to_yaml


@pytest.mark.ray
@pytest.mark.xdist_group("head")
def test_ctrl_c_on_training_here_saves_and_exits_as_interrupted(tiny_data, tmp_path):
    file = tmp_path / "tiny.yaml"
    changes = {"out": str(tmp_path / "runs"), "steps": 1_000_000, "workers.device": "cpu"}
    file.write_text(to_yaml(recipe_of(tiny_data, **changes)))
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    command = [sys.executable, "-m", "jobs.cli", "train", str(file), "--json"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    try:
        deadline_s = time.monotonic() + 500
        while not any(run.last_step() for run in list_runs(tmp_path / "runs")):
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        shown, _ = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    [run] = list_runs(tmp_path / "runs")
    told = json.loads(shown)
    assert told["state"] == run.state().state == "stopped"
    assert [row["trained_from_step"] for row in told["groups"]] == [0]
    assert run.last_step() == run.state().step > 0
