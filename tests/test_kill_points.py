"""A kill at any call loses nothing: afterwards the same command brings what an undisturbed one does, bit for bit.

The quick tier tries a spread of some sixty points of all commands, the long one every one.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# As many of each as make about sixty together; the scenarios are in `tests/kill_scenarios.py`.
EVERY = {
    "prepare": 7, "add": 7, "remove": 4, "prune": 3, "repair": 9, "checkpoint": 6, "search table": 2, "drain": 2,
    "stage": 8, "submit": 150,
}  # fmt: skip


def killed(scenario, place, every):
    words = [sys.executable, "-m", "tests.kill_points", scenario, str(place), str(every)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("scenario", EVERY)
def test_a_spread_of_kills_loses_nothing(scenario, tmp_path):
    found = killed(scenario, tmp_path / "place", EVERY[scenario])
    assert found["points"] >= 3, found
    assert found["wrong"] == []


@pytest.mark.long("dataprep", "jobs/runs", "jobs/checkpoints", "jobs/search", "vr_core")
@pytest.mark.parametrize("scenario", EVERY)
def test_no_kill_loses_anything(scenario, tmp_path):
    # A submission copies some 600 files, each in the same way.
    found = killed(scenario, tmp_path / "place", 10 if scenario == "submit" else 1)
    print(f"{scenario}: {found['points']} points")
    assert found["wrong"] == []
