"""A run that is disturbed again and again, and what must hold at its end: `python -m tests.box.soak --seed 1`.

Random events of `tests.box.events`, the same for the same seed, with random pauses between them, in a LAN in a box of
four hosts. At the end every step has been taken once, over the items that the order says. With `--precision float64`
the weights are those of one process that was never disturbed; with float32, where other sums round otherwise and runs
drift apart, the step after every checkpoint, taken again by one process, has the same loss and gradient norm.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from jobs.checkpoints.format import read_newest, step_folders
from jobs.recipe import NodesSpec, Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_metrics
from tests.box.attacks import ATTACKS
from tests.box.events import EVENTS, Scene, possible
from tests.box.runs import EVERY_S, PATIENCE_S, Run, share_data, start_cluster, submit
from tests.jobs.training import distance, here, last_weights, new_run, recipe_of
from tests.lan import SHARED, Lan, await_true
from vr_core.config import plain
from vr_core.specs.stft import StftSpec

LINK_MBIT = 8
"""Slow, so that the gradients of a small model make steps long enough for all that happens meanwhile."""
NAMES = ("attic", "study", "den", "loft")
HUNG_AFTER_S = 45
"""Of which a first start, which measures the devices of three PCs on two cores, takes 20; steps take less than one."""
WEIGHTS_WITHIN = 1e-8
NEXT_STEP_WITHIN = {"float32": 1e-5, "float64": 1e-10}
_SHARED_BYTES = 1 << 30
"""Of a shared folder that can be full."""
LAST_EVENT_BEFORE = 200
"""Steps before the end, in the long form."""


def soak_recipe(data: Path, steps: int, precision: str = "float64", **changes: Any) -> Recipe:
    """A small model whose float64 weights can be told from others'.

    At higher rates it is chaotic: one process that computes the same items nine at once and one at once has losses that
    differ by 2e-4 after 800 steps at 1e-3, by 3e-6 after 1,200 at 3e-4, and by 4e-16 after 2,400 at 1e-4.
    """
    settings = {
        "steps": steps, "batch.items": 9, "precision": precision, "checkpoint.every_steps": 20,
        "checkpoint.keep": 10_000, "validation.every_steps": steps, "workers.device": "cpu", "optim.lr": 1e-4,
        "workers.hung_after_s": HUNG_AFTER_S,
    }  # fmt: skip
    return recipe_of(data, **settings, **changes)


def begin(lan: Lan, steps: int, precision: str = "float64") -> Run:
    """Submit the run on all hosts; the data set is in the shared folder then."""
    data = share_data(lan, StftSpec(n_fft=64, hop=32))
    for host in lan.on:
        host.rate(LINK_MBIT)
    everyone = plain(NodesSpec(min=2, leave_out=False))
    return submit(lan, lan[lan.names[0]], soak_recipe(data, steps, precision, out=f"{SHARED}/runs", nodes=everyone))


def finish(run: Run) -> None:
    """Let it come to its end; quicker, since nothing happens any more."""
    for host in run.lan.on:
        host.rate(None)
    await_true(lambda: run.state["state"] not in ("pending", "running"), "the end", 20 * PATIENCE_S, EVERY_S)
    assert run.state["state"] == "finished", run.state


def steps_wrongly_taken(run: Run) -> dict[int, int]:
    """Step → how often it was taken, where that is not once. Each has checked that it covered its items."""
    taken = Counter(line["step"] for line in run.lines("step"))
    return {step: taken[step] for step in range(1, run.state["steps"] + 1) if taken[step] != 1}


def weights_off(run: Run, undisturbed: dict[str, torch.Tensor]) -> float:
    """Relative distance of the run's last weights from those of an undisturbed one."""
    return distance(last_weights(RunFolder(run.folder)), undisturbed)


def undisturbed_weights(run: Run, folder: Path, **batch: int) -> dict[str, torch.Tensor]:
    """The last weights of one process of this machine that does the same; `batch`: what is cut otherwise."""
    recipe = _here(run)
    recipe = recipe.model_copy(update={"batch": recipe.batch.model_copy(update=batch)})
    alone = new_run(folder, recipe)
    here(alone)
    return last_weights(alone)


def next_steps_off(run: Run, folder: Path, every: int = 1) -> dict[int, float]:
    """Step of every so many-th checkpoint → how far the next step's loss and gradient norm are from one process's."""
    told = {line["step"]: line for line in run.lines("step")}
    found = {}
    for saved in step_folders(RunFolder(run.folder))[::every]:
        step = int(saved.name.removeprefix("step-"))
        # A damaged one is passed over by whoever reads it, and so it was by the run.
        if step + 1 not in told or not read_newest(_only(saved, folder / "check"))[0]:
            continue
        again = one_step(folder / "again", _here(run), saved)
        found[step] = max(abs(again[what] / told[step + 1][what] - 1) for what in ("loss", "grad_norm"))
    return found


def one_step(folder: Path, recipe: Recipe, saved: Path) -> dict[str, float]:
    """What one process says of the step after a checkpoint."""
    shutil.rmtree(folder, ignore_errors=True)
    step = int(saved.name.removeprefix("step-"))
    run = new_run(folder, recipe.model_copy(update={"steps": step + 1}))
    shutil.copytree(saved, run.checkpoints / saved.name)
    here(run)
    [line] = [m for m in read_metrics(run) if m["kind"] == "step"]
    return line


def soak(seed: int, steps: int, precision: str, attacked: bool, pause_steps: int) -> bool:
    """All of it, with pauses of at most so many steps; a line for each event on stderr. Whether all held."""
    rng = random.Random(seed)
    with (
        Lan(*NAMES, shared_bytes=_SHARED_BYTES if attacked else None, clocks=attacked) as lan,
        tempfile.TemporaryDirectory(prefix="vr-soak-") as scratch,
    ):
        start_cluster(lan["attic"], *(lan[name] for name in NAMES[1:]))
        run = begin(lan, steps, precision)
        run.await_started("1.1")
        scene = Scene(lan, run, rng)
        happened: Counter[str] = Counter()
        while run.state["step"] < steps - LAST_EVENT_BEFORE:
            name = rng.choice([*possible(scene), *(ATTACKS if attacked else ())])
            pause = rng.randint(1, pause_steps)
            until = min(run.state["step"] + pause, steps - LAST_EVENT_BEFORE)
            await_true(lambda until=until: run.state["step"] >= until, f"step {until}", 10 * PATIENCE_S)
            figures = (EVENTS | ATTACKS)[name](scene)
            happened[name] += 1
            print(json.dumps({"step": run.state["step"], "event": name, **figures}), file=sys.stderr, flush=True)
        finish(run)
        wrong, off = steps_wrongly_taken(run), next_steps_off(run, Path(scratch))
        found = {
            "seed": seed, "attacked": attacked, "steps": steps, "precision": precision, "events": dict(happened),
            "attempts": run.state["attempt"], "steps_not_taken_once": wrong,
            "checkpoints_looked_at": len(off), "next_step_off": max(off.values()),
        }  # fmt: skip
        if precision == "float64":
            undisturbed = undisturbed_weights(run, Path(scratch) / "undisturbed")
            singly = undisturbed_weights(run, Path(scratch) / "singly", micro_batch=1)
            # What other rounding alone makes: where it is not far below what is allowed, `weights_off` says nothing.
            found |= {"weights_off": weights_off(run, undisturbed), "rounding_off": distance(singly, undisturbed)}
        print(json.dumps(found))
    right = not wrong and found["next_step_off"] < NEXT_STEP_WITHIN[precision]
    return right and (precision != "float64" or found["weights_off"] < WEIGHTS_WITHIN)


def _here(run: Run) -> Recipe:
    """The run's recipe for one process of this machine."""
    recipe = RunFolder(run.folder).recipe()
    return recipe.model_copy(update={"data": run.lan.shared / "data", "nodes": None})


def _only(saved: Path, folder: Path) -> RunFolder:
    """A run's folder that has this checkpoint and no other."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copytree(saved, folder / "checkpoints" / saved.name)
    return RunFolder(folder)


def main(arguments: list[str]) -> int:
    """As the module says."""
    parser = argparse.ArgumentParser(prog="python -m tests.box.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of what happens")
    parser.add_argument("--steps", type=int, default=20_000, help="of the run; with what happens, 40 to 100 a minute")
    parser.add_argument("--precision", choices=("float32", "float64"), default="float64")
    parser.add_argument("--attacked", action="store_true", help="among the events are those of tests/box/attacks.py")
    parser.add_argument("--pause-steps", type=int, default=60, help="most steps between two events")
    asked = parser.parse_args(arguments)
    return 0 if soak(asked.seed, asked.steps, asked.precision, asked.attacked, asked.pause_steps) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
