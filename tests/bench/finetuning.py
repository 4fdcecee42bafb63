"""Ways to fine-tune a model on other songs than those it was trained on: `python -m tests.bench.finetuning MUSIC WORK`.

MUSIC has the songs 001 to 036. A small BS-RoFormer is trained on 1 to 15; from it each way goes on with 16 to 30, with
equal steps; 31 to 36 are scored. The runs are trials (`trials.py`), whose lines are in `results/finetuning.jsonl`. What
travels is counted for two PCs.
"""

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from tests.bench.trials import Line, Trial, asked_of, carry_out, prepare_songs, read_lines, show, train_and_score

MODULE = "tests.bench.finetuning"
RESULTS = Path(__file__).with_name("results") / "finetuning.jsonl"
SEEDS = (1, 2)
DATA = {"first": range(1, 16), "second": range(16, 31)}
"""Data set → songs that are trained on."""
SCORED = range(31, 37)
TEACHER_STEPS, STEPS = 240, 100
MODEL = {"name": "bs_roformer", "width": 64, "blocks": 2, "heads": 2, "head_width": 32, "mask_expansion": 2,
         "stft": {"n_fft": 2048, "hop": 1024}}  # fmt: skip
OPTIM = {"warmup_steps": 10, "decay": "wsd", "ema_decay": 0.98}
WAYS: dict[str, dict[str, Any]] = {
    "whole": {"optim": {**OPTIM, "lr": 5e-4}},
    "LoRA, rank 8": {"optim": {**OPTIM, "lr": 5e-3}, "lora": {"rank": 8, "alpha": 16}},
    "LoRA, rank 8, lower rate": {"optim": {**OPTIM, "lr": 1e-3}, "lora": {"rank": 8, "alpha": 16}},
    "layer rates, 0.6 from layer to layer": {"optim": {**OPTIM, "lr": 5e-4, "layer_decay": 0.6}},
    "body frozen": {"optim": {**OPTIM, "lr": 5e-4, "freeze": "body"}},
}
"""Way → what its recipe has; `teacher` is before all of them."""
TEACHER = "teacher"


def recipe_of(way: str, seed: int, data: Path, out: Path, init: Path | None) -> dict[str, Any]:
    """As `Recipe` reads it."""
    steps = TEACHER_STEPS if way == TEACHER else STEPS
    own = {"optim": {**OPTIM, "lr": 1e-3}} if way == TEACHER else {**WAYS[way], "init": str(init)}
    return {
        "name": re.sub(r"[^a-z0-9]+", "-", way.lower()).strip("-"), "seed": seed, "steps": steps, "data": str(data),
        "out": str(out), "model": MODEL,
        "objective": {"name": "separate", "mask": "complex", "losses": {"waveform": 1}},
        "batch": {"items": 8, "micro_batch": 8, "crop_frames": 64}, "workers": {"device": "cpu"},
        "validation": {"every_steps": steps}, "checkpoint": {"every_s": 60}, "log": {"tensorboard": False},
        **own,
    }  # fmt: skip


def run_one(way: str, seed: int, work: Path) -> Line:
    """Train and score in this process."""
    from jobs.planning.arithmetic import arithmetic_of
    from jobs.recipe import Recipe
    from jobs.runs.lookup import list_runs, resolve_weights
    from vr_core.config import validate

    place = work / f"{way}-{seed}".replace(" ", "-").replace(",", "")
    init = None
    if way != TEACHER:
        [before] = list_runs(work / f"{TEACHER}-{seed}")
        init = resolve_weights(before.path)
    data = work / ("first" if way == TEACHER else "second")
    recipe = validate(Recipe, recipe_of(way, seed, data, place, init), way)
    counted = arithmetic_of(recipe)
    return {
        "trained_parameters": counted.parameters, "sent_bytes_each_of_two": 4 * counted.parameters * recipe.steps,
        **train_and_score(recipe, work / "second"),
    }  # fmt: skip


def table() -> list[str]:
    """Of the lines that are there, a way each."""
    rows = read_lines(RESULTS)
    lines = [
        "| way | trained | seed 1 | seed 2 | mean | core-seconds | sent by each of two PCs |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for way in (TEACHER, *WAYS):
        own = sorted((row for row in rows if row["way"] == way), key=lambda row: row["seed"])
        if len(own) < len(SEEDS):
            continue
        dbs = [row["improvement_db"] for row in own]
        sent_mb = own[0]["sent_bytes_each_of_two"] / 1e6
        each = " | ".join(f"{db:.2f} dB" for db in dbs)
        core_s = statistics.mean(row["core_s"] for row in own)
        lines.append(
            f"| {way} | {own[0]['trained_parameters']:,} | {each} | {statistics.mean(dbs):.2f} dB | {core_s:.0f} | "
            f"{sent_mb:,.0f} MB |"
        )
    return lines


def main(arguments: list[str]) -> None:
    """As the module says."""
    asked = asked_of(MODULE, __doc__, arguments)
    if asked.one:
        way, seed = asked.one
        print(json.dumps(run_one(way, int(seed), asked.work)))
        return
    failed: list[Trial] = []
    if not asked.table:
        for name, trained in DATA.items():
            prepare_songs(asked.music, asked.work / name, {"train": trained, "test": SCORED})
        for ways in ((TEACHER,), tuple(WAYS)):
            trials = [
                Trial({"way": way, "seed": seed}, (str(asked.music), str(asked.work), "--one", way, str(seed)))
                for way in ways
                for seed in SEEDS
            ]
            failed += carry_out(MODULE, RESULTS, trials)
            if failed:  # every way begins with a teacher
                break
    show(table(), failed)


if __name__ == "__main__":
    main(sys.argv[1:])
