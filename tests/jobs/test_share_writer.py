"""Somebody who may write to the share, such as any account of the family's NAS: no code, no token, no file outside.

He may stop or spoil what lies on the share. Each test begins with what he writes there.
"""

import io
import json
import shutil
import zipfile

import pytest

from cluster.node.head import state_folder
from cluster.timings import DEFAULT_TIMINGS
from jobs.queue import kept as kept_module
from jobs.queue.kept import keep, keep_recipe, kept_recipe, require_kept
from jobs.queue.submit import keep_source, submit_next
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import write_driver
from jobs.runs.metrics import MetricsLog
from jobs.runs.starts import begin_start
from jobs.runs.state_writer import Record
from jobs.runs.summary import ProgressWriter
from tests.command_line import vr
from tests.jobs.checkpoints import write_example
from tests.jobs.kept import QUICK, kept_with
from vr_core.config import to_yaml
from vr_core.errors import VrError
from vr_core.small_files import read_json

cluster, run, kept = kept_with(QUICK)
EVIL = "open('/tmp/owned', 'w').write('his')\n"


def code_of(cluster, submission):
    """The files of the code that the job's workers get."""
    package = cluster.api.jobs[submission].runtime_env["working_dir"].removeprefix("gcs://")
    with zipfile.ZipFile(io.BytesIO(cluster.api.packages[package])) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_code_that_he_puts_into_a_run_is_not_submitted(cluster, kept):
    """The keeper submits a run again whose job has died: two lines in `source/`, and an attempt that he began."""
    for name in ("jobs/launch.py", "jobs/execution/launch.py", "code.py"):
        file = kept.run.path / "source" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(EVIL)
    kept.fails()
    kept.turn()
    job = kept.api.jobs[f"{kept.run.id}.a2"]
    assert all(EVIL not in text for text in code_of(cluster, job.submission_id).values())
    assert "-m jobs.execution.launch" in job.entrypoint


def test_a_recipe_that_he_changes_is_not_what_is_carried(cluster, run, tmp_path):
    submit_next(cluster.head, run)
    changed = run.recipe().model_copy(update={"out": tmp_path / "his", "steps": 9})
    run.recipe_file.write_text(to_yaml(changed))
    own = require_kept(run)
    assert own.recipe.steps == 100
    assert str(own.recipe_file) in cluster.api.jobs[f"{run.id}.a1"].entrypoint
    assert state_folder() in own.recipe_file.parents


def test_a_run_that_this_pc_keeps_nothing_of_is_not_submitted_by_the_keeper(cluster, kept):
    """As after an update from a version that kept the code on the share."""
    shutil.rmtree(state_folder() / "runs")
    kept.fails()
    kept.turn()
    assert not kept.row().open
    state = kept.run.state()
    assert state.state == "failed"
    assert f"go on with: vr jobs resume {kept.run.path}" in state.why
    assert kept.jobs() == ["a1"]
    said = vr("jobs", "resume", kept.run.path, code=None)
    assert "no recipe of it is kept on this PC; what is in its folder says:\n  name: line\n" in said.stderr
    assert kept.jobs() == ["a1", "a2"]
    assert "jobs/execution/launch.py" in code_of(cluster, f"{kept.run.id}.a2"), "today's code"


@pytest.mark.parametrize("name", ["..", ".hidden", "a b", "-x", "a\nb", "x" * 300, "my run (copy)"])
def test_whatever_a_run_is_called_its_copies_lie_in_the_state_folder(run, name):
    run.id = name
    keep_recipe(run, run.recipe())
    assert kept_recipe(run) == run.recipe()
    kept_files = [path for path in state_folder().rglob("recipe.yaml")]
    assert all(path.parents[1] == state_folder() / "runs" for path in kept_files)


def test_of_two_runs_of_one_name_each_has_its_own_recipe(run, tmp_path):
    other = RunFolder(tmp_path / "elsewhere" / run.id)
    keep_recipe(run, run.recipe())
    keep_recipe(other, run.recipe().model_copy(update={"steps": 7}))
    assert (kept_recipe(run).steps, kept_recipe(other).steps) == (100, 7)


def test_a_copy_of_code_that_was_cut_short_is_not_submitted(run, monkeypatch):
    """A kill in the middle of the copy: the one of before is what is submitted."""
    keep(run, run.recipe())
    before = require_kept(run).source

    def dies(target):
        (target / "jobs").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(kept_module, "copy_source", dies)
    with pytest.raises(KeyboardInterrupt):
        keep(run, run.recipe())
    assert require_kept(run).source == before
    assert (before / "jobs" / "cli.py").is_file()


ESCAPE = "\x1b]0;owned\x07\x1b[2J[/nope]\n2026-11-29 keeper: all is well\u202e"


@pytest.fixture
def talkative(kept):
    """A run whose every text is his."""
    run = kept.run
    machines = [{"host": ESCAPE, "labels": {"vr/node": ESCAPE}, "device": ESCAPE}]
    origin = json.loads(run.origin_file.read_text())
    run.origin_file.write_text(json.dumps({**origin, "machines": {"1.1": machines}}))
    run.state_file.write_text(json.dumps({**read_json(run.state_file), "state": "failed", "why": ESCAPE}))
    run.events_file.write_text(json.dumps({"time_s": 1e30, "step": 1, "said": ESCAPE}) + "\n")
    run.notice_file.unlink(missing_ok=True)
    return run


@pytest.mark.parametrize("words", [["jobs", "list", "--out"], ["jobs", "show"]])
def test_what_he_writes_is_printed_and_not_obeyed(talkative, words):
    place = talkative.path.parent if "list" in words else talkative.path
    said = vr(*words, place)
    for text in (said.stdout, said.stderr):
        assert not {c for c in text if not c.isprintable()} - {"\n"}
        assert not any(line.startswith("2026-11-29 keeper") for line in text.splitlines())
    assert "[/nope]" in said.stdout


def test_a_line_of_the_keepers_log_is_one_line(kept):
    kept.keeper.complaints.add("line-1", OSError(ESCAPE))
    assert "\n" not in kept.complaints["line-1"]
    assert "\x1b" not in kept.complaints["line-1"]


@pytest.fixture
def victim(tmp_path):
    """A folder of the user's, of which nothing may change."""
    folder = tmp_path / "home"
    for name in ("thesis.txt", "metrics/1.1.jsonl", "1/driver.json", "jobs/cli.py", "last"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years of work\n")
    return folder


def unchanged(victim) -> bool:
    files = [path for path in victim.rglob("*") if path.is_file()]
    return len(files) == 5 and all(path.read_text() == "years of work\n" for path in files)


def linked(place, to):
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(to)


def writes_all(run):
    """What a driver and its rank 0 write of a run, one after the other; what is refused is counted."""
    tried = [
        lambda: Record(run, 1, lambda _: None, DEFAULT_TIMINGS).say("a line", "mended"),
        lambda: run.write_state(state="running", steps=9, attempt=1),
        lambda: run.give_notice("failed", "why"),
        run.begin_attempt,
        lambda: write_driver(run, 1),
        lambda: keep_source(run, run.recipe()),
        lambda: write_example(run, 4, 1.0, best=True),
        lambda: log_of(run),
        lambda: ProgressWriter(run, 9).tell(),
    ]
    refused = 0
    for write in tried:
        try:
            write()
        except (VrError, OSError):
            refused += 1
    return refused


def log_of(run):
    with MetricsLog(run, begin_start(run), 0, tensorboard=True) as log:
        log.write("step", 1, loss=1.0)
        log.flush()


PLACES = {
    "events.jsonl": "thesis.txt", "metrics.jsonl": "thesis.txt", "state.json": "thesis.txt", "metrics": "metrics",
    "attempts": ".", "attempts/1": "1", "source": ".", "checkpoints": ".", "checkpoints/last": "last",
    "tensorboard": ".", "checkpoints/.step-00000004.0.0": ".",
    "checkpoints/.step-00000004.0.0/training.pt": "thesis.txt",
    "origin.json": "thesis.txt",
    "summary.json": "thesis.txt",
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_no_link_that_he_lays_is_written_through(run, victim, place):
    (run.path / "attempts" / "1").mkdir(parents=True, exist_ok=True)
    (run.path / place).parent.mkdir(parents=True, exist_ok=True)
    run.checkpoints.mkdir(exist_ok=True)
    linked(run.path / place, victim / PLACES[place])
    writes_all(run)
    assert unchanged(victim)


def test_a_run_folder_that_is_a_link_is_not_written_to(run, victim):
    recipe = run.recipe()
    away = run.path.rename(run.path.with_name("away"))
    run.path.symlink_to(victim)
    del recipe, away
    writes_all(run)
    assert unchanged(victim)


def test_without_links_all_of_it_is_written(run):
    """The list above tries what it says."""
    assert writes_all(run) == 0
    for name in (
        "events.jsonl",
        "metrics.jsonl",
        "state.json",
        "source",
        "checkpoints/last",
        "tensorboard",
        "attempts/1",
    ):
        assert (run.path / name).exists(), name
