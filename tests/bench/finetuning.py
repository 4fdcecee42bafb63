"""Ways to fine-tune a model on other songs than those it was trained on: `python -m tests.bench.finetuning MUSIC WORK`.

MUSIC has the songs 001 to 036. A small BS-RoFormer is trained on 1 to 15; from it each way goes on with 16 to 30, with
equal steps; 31 to 36 are scored. Each run is a process of one thread, two at a time, and appends its line to
`results/finetuning.jsonl` when it has ended: a second call does what is missing. What travels is counted for two PCs.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.bench.measurement import circumstances

RESULTS = Path(__file__).with_name("results") / "finetuning.jsonl"
SEEDS = (1, 2)
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


def run_one(way: str, seed: int, work: Path) -> dict[str, Any]:
    """Train and score in this process."""
    import torch

    from jobs.planning.arithmetic import arithmetic_of
    from jobs.recipe import Recipe
    from jobs.runs.creation import create_run
    from jobs.runs.lookup import list_runs, resolve_weights
    from jobs.scoring.evaluate import evaluate
    from jobs.steps.world import World
    from jobs.training.loop import train
    from vr_core.config import validate

    torch.set_num_threads(1)
    place = work / f"{way}-{seed}".replace(" ", "-").replace(",", "")
    init = None
    if way != TEACHER:
        [before] = list_runs(work / f"{TEACHER}-{seed}")
        init = resolve_weights(before.path)
    data = work / ("first" if way == TEACHER else "second")
    recipe = validate(Recipe, recipe_of(way, seed, data, place, init), way)
    begun = list_runs(place) if place.is_dir() else []
    run = begun[0] if begun else create_run(recipe)
    counted, began_s = arithmetic_of(run.recipe()), time.process_time()
    train(run.recipe(), run.path, World.alone(torch.device("cpu")))
    trained_s = time.process_time() - began_s
    scores = evaluate(run.path, work / "second", "test", None, "cpu").plain()
    return {
        "way": way, "seed": seed, "steps": recipe.steps, "trained_parameters": counted.parameters,
        "core_s": round(trained_s, 1), "core_s_is_whole": not begun,
        "sent_bytes_each_of_two": 4 * counted.parameters * recipe.steps,
        "improvement_db": scores["mean"]["improvement_db"], "sdr_db": scores["mean"]["sdr_db"],
        "songs_db": {row["id"]: row["improvement_db"] for row in scores["songs"]}, **circumstances(),
    }  # fmt: skip


def prepare_songs(music: Path, work: Path) -> None:
    """Two data sets: 1 to 15 and 16 to 30 are trained on, 31 to 36 are scored."""
    work.mkdir(parents=True, exist_ok=True)
    for name, trained in (("first", range(1, 16)), ("second", range(16, 31))):
        if (work / name / "manifest.json").exists():
            continue
        split = work / f"{name}.split"
        rows = {f"song{n:03d}": "train" for n in trained} | {f"song{n:03d}": "test" for n in range(31, 37)}
        split.write_text("".join(f"{part} {song}\n" for song, part in rows.items()))
        words = [sys.executable, "-m", "jobs.cli", "data", "prepare", *(str(music / song) for song in rows)]
        subprocess.run([*words, "--out", str(work / name), "--split", str(split)], check=True)


def done() -> list[dict[str, Any]]:
    """The lines that are there."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def in_own_process(way: str, seed: int, work: Path) -> None:
    """Unless its line is there already."""
    if any((row["way"], row["seed"]) == (way, seed) for row in done()):
        return
    words = [sys.executable, "-m", "tests.bench.finetuning", str(work), str(work), "--one", way, str(seed)]
    said = subprocess.run(
        words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    line = said.stdout.splitlines()[-1]
    with RESULTS.open("a") as file:
        file.write(f"{json.dumps(json.loads(line))}\n")
    print(f"{way}, seed {seed}: {json.loads(line)['improvement_db']:.2f} dB", file=sys.stderr, flush=True)


def table() -> list[str]:
    """Of the lines that are there, a way each."""
    rows = done()
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
    parser = argparse.ArgumentParser(prog="python -m tests.bench.finetuning", description=__doc__)
    parser.add_argument("music", type=Path)
    parser.add_argument("work", type=Path, help="folder for data sets and runs")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "SEED"), help="this run alone, in this process")
    asked = parser.parse_args(arguments)
    if asked.one:
        print(json.dumps(run_one(asked.one[0], int(asked.one[1]), asked.work)))
        return
    prepare_songs(asked.music, asked.work)
    RESULTS.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(2) as threads:
        for ways in ((TEACHER,), tuple(WAYS)):
            jobs = [threads.submit(in_own_process, way, seed, asked.work) for way in ways for seed in SEEDS]
            for job in jobs:
                job.result()
    print("\n".join(table()))


if __name__ == "__main__":
    main(sys.argv[1:])
