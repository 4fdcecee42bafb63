"""Write anew what `tests.recorded.folders` describes, with the code of this tree; a minute on two cores.

    python -m tests.recorded.keep FOLDER

Each run has a driver of its own, the supervisor as in `vr train`, and the search one that follows its trials as in
`vr tune`. Only Ray is left out: ranks are forked, trials are trained one after the other. The unfinished are killed.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from safetensors.numpy import save_file

from cluster.timings import DEFAULT_TIMINGS
from jobs.execution.membership import ClusterView
from jobs.execution.placement import Node, Placement
from jobs.execution.ray_train import Fits
from jobs.execution.supervisor import Supervisor
from jobs.recipe import Recipe
from jobs.recipes.shipped import shipped_recipes
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import write_driver
from jobs.runs.lookup import resolve_weights
from jobs.search.folder import Search, create_search
from jobs.search.follower import Follower
from tests.jobs import ranks
from tests.jobs.training import here as train_here
from tests.jobs.training import new_run
from tests.recorded.compare import BEFORE
from tests.recorded.folders import BOOT, PLACE, contents, run_called, separated
from tests.recorded.runs import RUNS, SMALL, recipe_of, train_rank, write
from vr_core.config import load, override, plain, to_yaml, validate
from vr_core.files import write_json

PATIENCE_S = 240.0
ATTIC = Node("attic", {"vr/node": "attic"}, 2, 0, "id-attic", "127.0.0.1", 0)
_SMALLER: dict[str, Any] = override(SMALL, {"model.max_distance_frames": 4, "checkpoint.keep": 1})
_LONG = {"batch.items": 32}
"""Steps long enough to be killed between two checkpoints."""
_EXACT = {**_LONG, "objective.name": "masked_frames"}
"""Mixing stems is done in float32, which CPUs of other makers round otherwise: such losses agree to 1e-7 at best."""
MADE = {
    "finished": override(_SMALLER, {"name": "finished", "precision": "auto", "steps": 6}),
    "killed": override(
        _SMALLER, {**_EXACT, "name": "killed", "steps": 12, "checkpoint.every_steps": 5, "validation.every_steps": 5}
    ),
    "local": override(
        _SMALLER,
        {
            **_EXACT, "name": "local", "steps": 14, "checkpoint.every_steps": 4, "validation.every_steps": 20,
            "workers": {"count": 2, "shares": "equal"}, "sync": "diloco",
            "diloco": {"every_steps": 4, "behind_steps": 2, "start_step": 4},
        },
    ),
    "searched": override(
        _SMALLER,
        {
            **_LONG, "name": "searched", "workers": {"device": "cpu"}, "precision": "auto", "steps": 30,
            "validation.every_steps": 10, "checkpoint.every_steps": 10,
            "tune": {
                "space": {"optim.lr": [1e-3, 3e-3, 1e-2]}, "trials": 3, "concurrent": 1, "grace_steps": 10,
                "reduction": 2,
            },
        },
    ),
}  # fmt: skip
KILLED_AFTER = {"killed": 5, "local": 8}
"""A checkpoint with a validation behind it, and one of `diloco` whose deltas are under way."""
EVERYTHING: dict[str, Any] = {
    "name": "everything", "seed": 3, "steps": 100, "needs_init": True, "init_reset": ["output.*"],
    "model": {"name": "plain_stack", "width": 8, "blocks": 2, "kernel_frames": 3, "expansion": 2, "dropout": 0.2},
    "objective": {"name": "masked_frames", "rate": 0.3, "token_frames": 8, "ones": 0.7, "noise": 0.2},
    "batch": {"items": 8, "micro_batch": 4, "crop_frames": 32},
    "optim": {
        "lr": 2e-3, "betas": [0.8, 0.9], "weight_decay": 0.1, "warmup_steps": 5, "decay": "linear", "final_lr": 0.1,
        "clip_norm": 0.5, "layer_decay": 0.9, "freeze": ["input.*"], "ema_decay": 0.9,
    },
    "precision": "bfloat16", "nonfinite_limit": 2, "validation": {"every_steps": 10, "items": 4},
    "checkpoint": {"every_s": 60, "every_steps": 7, "keep": 3},
    "workers": {"device": "cpu", "cpus": 2, "shares": "equal", "hung_after_s": 60},
    "nodes": {"min": 2, "max": 3, "memory_gib": 8, "labels": {"room": "!in(attic)"}, "exclude": ["den"],
              "leave_out": False},
    "sync": {"auto": ["bf16", "diloco"]},
    "diloco": {"every_steps": 8, "behind_steps": 1, "start_step": 10, "lr": 0.5, "momentum": 0.9},
    "tune": {"space": {"optim.lr": {"loguniform": [1e-4, 1e-2]}, "model.width": [8, 16]}, "trials": 4},
    "log": {"tensorboard": False}, "cache": {"path": "/cache", "quota_gb": 1, "stage": True},
}  # fmt: skip
"""A recipe without a default where it can do without."""


def main(folder: Path) -> None:
    """Write all of it into `folder`, which must not exist."""
    with tempfile.TemporaryDirectory() as temporary:
        work, kept = Path(temporary) / "work", Path(temporary) / "kept"
        shutil.copytree(BEFORE / "data", work / "data")
        os.environ |= {"XDG_STATE_HOME": str(work / "state"), "OMP_NUM_THREADS": "1"}
        runs = make_runs(work)
        shutil.copytree(runs, kept / "runs", ignore=shutil.ignore_patterns("state-*"))
        train_undisturbed(runs, work, kept / "undisturbed")
        (kept / "data.json").write_text(json.dumps(contents(work / "data"), indent=1) + "\n")
        weights = resolve_weights(run_called("finished", runs).path)
        save_file({"instrumental": separated(weights, work)}, kept / "separated.safetensors")
        keep_ids(weights, work, kept)
        shutil.copytree(without_places(kept, work), folder)


def make_runs(work: Path) -> Path:
    """The runs and the search, each by a driver of its own."""
    for name, raw in MADE.items():
        recipe = validate(Recipe, {**raw, "data": str(work / "data"), "out": str(work / "runs")}, name)
        made = create_search(recipe).path if recipe.tune else create_run(recipe).path
        driver = subprocess.Popen([sys.executable, "-m", "tests.recorded.keep", "drive", str(made)])
        if name in KILLED_AFTER:
            kill(driver, partial(has_come_to, RunFolder(made), KILLED_AFTER[name]))
            last = RunFolder(made).last_step()
            assert last == KILLED_AFTER[name], f"{name}: killed after step {last}; try again"
            for old in made.glob("checkpoints/step-*"):  # killed before it had let go of them
                if old.name != f"step-{last:08d}":
                    shutil.rmtree(old)
        elif recipe.tune:
            kill(driver, partial(is_half_done, Search(made)))
            assert [row.state for row in Search(made).rows()] == ["finished", "running", "pending"]
        else:
            assert driver.wait(PATIENCE_S) == 0
    return work / "runs"


def drive(made: Path) -> None:
    """Carry a run or a search in this process."""
    if (made / "search.yaml").is_file():
        carry(Search(made))
        return
    try:
        run = RunFolder(made)
        attempt = run.begin_attempt()
        write_driver(run, attempt)
        view = ClusterView(lambda: [ATTIC], lambda: ATTIC.id)
        Supervisor(
            run, run.recipe(), attempt, "", False, lambda state: None, DEFAULT_TIMINGS, Fits(by_ranks), view
        ).supervise()
    finally:
        ranks.end_fork_server()


def by_ranks(
    run: RunFolder, recipe: Recipe, attempt: int, number: int, placement: Placement, loop: str, been: Collection[str]
) -> dict[str, Any]:
    """One start of a run's workers, as forked ranks in place of Ray Train's."""
    world = recipe.workers.count
    machine = {"host": ATTIC.name, "labels": ATTIC.labels, "device": "cpu", "threads": 1}
    machines = [{"rank": rank, **machine} for rank in range(world)]
    write_json(run.attempt_folder(attempt) / f"machines-{number}.json", {"machines": machines})
    train(run, world, run.path.parents[1] / f"{run.id}-meeting")
    return {"ended": "finished"}


def carry(search: Search) -> None:
    """Train a search's trials one after the other, and write what Tune would have it write."""
    recipe, follower = search.recipe(), Follower(search, lambda rows: None, with_cards=False)
    attempt = search.run.begin_attempt()
    write_driver(search.run, attempt)
    search.run.write_state(state="running", why="", attempt=attempt)
    for row in search.rows():
        run = search.trial(row.id)
        follower.began(row.id)
        train_here(run, report=partial(told, follower, row.id))
        follower.ended(row.id, recipe.steps)


def told(follower: Follower, trial: str, metrics: dict[str, float]) -> None:
    """A validation of a trial, as Tune tells it."""
    follower.reported(trial, int(metrics["step"]))


def kill(driver: subprocess.Popen[bytes], now: Callable[[], bool]) -> None:
    """SIGKILL a command and all that it has started, as soon as `now()` says so."""
    process, end_s = psutil.Process(driver.pid), time.monotonic() + PATIENCE_S
    while not now():
        assert driver.poll() is None, "ended before it could be killed"
        assert time.monotonic() < end_s
        time.sleep(0.002)
    os.kill(driver.pid, signal.SIGSTOP)  # it must not see the others go
    below = process.children(recursive=True)
    for one in (process, *below):
        one.kill()
    driver.wait()
    psutil.wait_procs(below, timeout=30)


def has_come_to(run: RunFolder, step: int) -> bool:
    """Whether the run's newest checkpoint is of that step or a later one."""
    return run.last_step() >= step


def is_half_done(search: Search) -> bool:
    """Whether a trial of the search has ended and the next one has a checkpoint."""
    first, second, _ = search.rows()
    return first.state == "finished" and search.trial(second.id).last_step() > 0


def train_undisturbed(runs: Path, work: Path, folder: Path) -> None:
    """What the killed runs come to: trained without a break; of `local` also when one worker goes on with it."""
    (work / "undisturbed").mkdir()
    folder.mkdir()
    trained = {}
    try:
        for name in KILLED_AFTER:
            recipe = run_called(name, runs).recipe()
            trained[name] = new_run(work / "undisturbed" / name, recipe)
            train(trained[name], recipe.workers.count, work / f"{name}-meeting")
        alone = shutil.copytree(run_called("local", runs).path, work / "undisturbed" / "local-alone")
        trained["local-alone"] = RunFolder(alone)
        train(trained["local-alone"], 1, work / "alone-meeting")
    finally:
        ranks.end_fork_server()
    write(trained, folder)


def train(run: RunFolder, world: int, meeting: Path) -> None:
    """Train a run to its end by so many ranks."""
    ended = [rank.wait() for rank in ranks.group(partial(train_rank, run.path), world, meeting)]
    assert ended == [0] * world, f"{run.id}: {ended}"


def keep_ids(weights: Path, work: Path, kept: Path) -> None:
    """Resolved recipes, with their digests and the ids of their first runs."""
    recipes = {name: load(Recipe, file) for name, file in shipped_recipes().items()}
    recipes |= {f"recorded-{name}": recipe_of(Path("/data"), what) for name, what in RUNS.items()}
    recipes["everything"] = validate(Recipe, EVERYTHING, "everything")
    (kept / "recipes").mkdir()
    found = {}
    for key, recipe in recipes.items():
        (kept / "recipes" / f"{key}.yaml").write_text(to_yaml(recipe))
        places = {"data": str(work / "data"), "out": str(work / "ids" / key), "init": str(weights)}
        run = create_run(validate(Recipe, {**plain(recipe), **places}, key))
        found[key] = {"digest": recipe.digest(), "run": run.id}
    (kept / "ids.json").write_text(json.dumps(found, indent=1) + "\n")


def without_places(kept: Path, work: Path) -> Path:
    """The same folder without names of this PC and of places on it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for file in kept.rglob("*"):
        if file.is_file() and file.suffix not in (".safetensors", ".pt"):
            text = file.read_text().replace(str(work), PLACE).replace(boot, BOOT)
            file.write_text(text.replace(f'"{platform.node()}"', '"attic"'))
        if file.is_file():
            assert str(work.parent).encode() not in file.read_bytes(), file
    return kept


if __name__ == "__main__":
    if sys.argv[1] == "drive":
        drive(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
