"""A search on a real head, its driver killed once; and what a browser finds on the Ray dashboard's pages afterwards."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from selenium import webdriver

from cluster.node.head import Head
from jobs.queue.client import stop_run
from jobs.queue.submit import start
from jobs.recipe import Recipe
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_metrics
from jobs.search.folder import Search, shown_trial
from jobs.search.space import shown_values
from tests.jobs.dashboard import await_page, chromium, keep_picture, log_in, show_many_rows
from tests.loopback import Loopback
from tests.recorded.folders import lay_out, run_called
from vr_core.config import load, override, to_yaml, validate

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("head"), pytest.mark.timeout(600)]

PATIENCE_S = 280
TINY = {
    "name": "tiny",
    "steps": 100,
    "model": {"name": "dense_frame_transformer", "width": 8, "blocks": 1, "heads": 2, "feedforward": 8},
    "batch": {"items": 4, "micro_batch": 4, "crop_frames": 16},
    "optim": {"warmup_steps": 0, "ema_decay": 0.5},
    "validation": {"every_steps": 25, "items": 2},
    "checkpoint": {"every_steps": 10, "every_s": 1e6, "keep": 1},
    "workers": {"device": "cpu"},
    "log": {"tensorboard": False},
}
SPACE = {"optim.lr": {"loguniform": [1e-4, 1e-1]}, "model.blocks": [1, 2]}


@dataclass(frozen=True)
class Searched:
    """A search that was killed once, and what its trials' metrics were at that moment."""

    search: Search
    told: dict[str, object]
    """What `vr tune --resume … --json` printed."""
    ended: dict[str, list[dict[str, object]]]
    """Metrics of the trials that had ended."""
    going: dict[str, tuple[int, list[float]]]
    """Step of the newest checkpoint, and the times of the steps up to it, of the trials that were running."""


@pytest.fixture(scope="module")
def head(loopback: Loopback) -> Head:
    """Two cores, and two on the node beside it."""
    return loopback.head


@pytest.fixture(scope="module")
def submitted(head: Head, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """A small training run as a Ray job."""
    out = tmp_path_factory.mktemp("submitted")
    run = create_run(validate(Recipe, {**TINY, "data": str(tiny_data), "out": str(out), "steps": 3}, "test"))
    start(head, run, run.recipe())
    yield run
    stop_run(run, head)


@pytest.fixture(scope="module")
def searched(head: Head, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """6 trials over two values; the driver is killed when some trial has ended and another is under way."""
    folder = tmp_path_factory.mktemp("search")
    raw = {**TINY, "data": str(tiny_data), "out": str(folder / "runs")}
    raw["tune"] = {"space": SPACE, "trials": 6, "concurrent": 2, "grace_steps": 25, "reduction": 2}
    (folder / "tiny.yaml").write_text(to_yaml(validate(Recipe, raw, "test")))

    driver = vr("tune", str(folder / "tiny.yaml"))
    search = await_kill(driver, folder / "runs")
    rows = search.rows()
    ended = {row.id: list(read_metrics(search.trial(row.id))) for row in rows if is_ended(row.state)}
    going = {}
    for row in rows:
        run = search.trial(row.id)
        if row.state == "running" and run.last_step() > 0:
            going[row.id] = run.last_step(), times(run, run.last_step())

    resumed = vr("tune", "--resume", str(search.path), "--json")
    output, errors = resumed.communicate(timeout=PATIENCE_S)
    assert resumed.returncode == 0, errors
    return Searched(search, json.loads(output), ended, going)


def vr(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def is_ended(state: str) -> bool:
    return state in ("finished", "stopped")


def times(run: RunFolder, until: int) -> list[float]:
    """Times of the steps up to `until`."""
    return [r["time_s"] for r in read_metrics(run) if r["kind"] == "step" and r["step"] <= until]


def await_kill(driver: subprocess.Popen[str], out: Path) -> Search:
    """Kill the driver in the middle; its trials' processes end with it."""
    end_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < end_s:
        assert driver.poll() is None, driver.communicate()
        for search in [Search(path) for path in out.glob("tiny-*")]:
            rows = search.rows()
            under_way = [r for r in rows if r.state == "running" and 0 < search.trial(r.id).last_step() < r.steps]
            if under_way and any(is_ended(row.state) for row in rows):
                trials = [
                    p for p in psutil.process_iter(["cmdline"]) if "ray::Trial" in " ".join(p.info["cmdline"] or [])
                ]
                driver.kill()
                driver.communicate()
                assert not psutil.wait_procs(trials, timeout=60)[1]
                return search
        time.sleep(0.02)
    driver.kill()
    pytest.fail(f"no moment to kill the driver: {driver.communicate()}")


def test_a_killed_search_goes_on_with_every_trial_where_it_was(searched):
    search, rows = searched.search, searched.search.rows()
    assert search.run.state().beat > 0, "who watches from another PC hears its driver"
    assert [row.id for row in rows] == ["0000", "0001", "0002", "0003", "0004", "0005"]
    assert {row.state for row in rows} <= {"finished", "stopped"}
    assert any(row.state == "finished" for row in rows)
    for row in rows:
        steps = [r["step"] for r in read_metrics(search.trial(row.id)) if r["kind"] == "step"]
        assert steps == list(range(1, row.step + 1)), row
        assert (row.step == row.steps) == (row.state == "finished")
        assert row.state == "finished" or row.why == f"ASHA: behind the other trials at step {row.step}"
    assert searched.ended
    for trial, metrics in searched.ended.items():
        assert list(read_metrics(search.trial(trial))) == metrics
    assert searched.going
    for trial, (step, before) in searched.going.items():
        # Steps up to the checkpoint are those of the killed process: nothing was computed twice.
        assert times(search.trial(trial), step) == before


def test_the_best_recipe_is_ready_to_be_submitted(searched):
    search = searched.search
    rows = {row.id: row for row in search.rows()}
    finished = [row for row in rows.values() if row.state == "finished"]
    winner = min(finished, key=lambda row: row.score)
    assert searched.told["best"] == winner.id
    assert searched.told["state"] == "finished"
    recipe = load(Recipe, Path(str(searched.told["best_recipe"])))
    assert recipe == validate(Recipe, override(json.loads(plain_text(search.recipe())), winner.values), "test")
    assert recipe.tune is None


def test_a_search_of_an_earlier_version_goes_on_from_its_trials_folders(head, tmp_path):
    """Killed when one trial had ended and the next one had a checkpoint; what Tune knew of it is gone."""
    search = Search(run_called("searched", lay_out(tmp_path)).path)
    ended, going, _ = (search.trial(row.id) for row in search.rows())
    step, before = going.last_step(), times(going, going.last_step())
    metrics = ended.metrics_file.read_bytes()
    assert len(before) == step >= 10

    resumed = vr("tune", "--resume", str(search.path), "--json")
    output, errors = resumed.communicate(timeout=PATIENCE_S)
    assert resumed.returncode == 0, errors
    assert json.loads(output)["state"] == "finished"
    assert all(is_ended(row.state) for row in search.rows()), search.rows()
    assert ended.metrics_file.read_bytes() == metrics
    assert times(going, step) == before
    assert search.best_file.is_file()


def plain_text(recipe: Recipe) -> str:
    return recipe.model_copy(update={"tune": None}).model_dump_json()


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    """Headless chromium."""
    with chromium() as driver:
        yield driver


def test_a_browser_finds_the_run_the_job_and_the_trials(browser, head, submitted, searched, tmp_path):
    browser.get(f"{head.dashboard_url}/#/jobs")
    log_in(browser, head.token_file.read_text().strip())
    await_page(
        browser, lambda text: f"{submitted.id}.a1" in text and f"jobs.execution.launch {submitted.path} 1" in text
    )
    keep_picture(browser, tmp_path / "dashboard-jobs.png")

    browser.get(f"{head.dashboard_url}/#/actors")
    rows = searched.search.rows()
    await_page(browser, lambda text: "Actor ID" in text and "Per Page" in text)
    show_many_rows(browser)
    names = [f"{searched.search.id}/{row.id} {shown_values(row.values)}" for row in rows]
    text = await_page(browser, lambda text: all(name in text for name in names))
    for row in rows:
        assert shown_trial(row) in text, text
    keep_picture(browser, tmp_path / "dashboard-actors.png")
