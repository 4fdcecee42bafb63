"""Trials of a bench: each is a process of one thread, two at a time, and appends its line to a file when it has ended.

A trial whose line is there is not done again, so that a second call does what is missing. One that was interrupted goes
on from its run's checkpoint. The bench's own module is called for a trial, and prints its line as JSON, last of all.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.measurement import circumstances

if TYPE_CHECKING:
    from jobs.recipe import Recipe

Line = dict[str, Any]
AT_ONCE = 2
_APPENDING = threading.Lock()


@dataclass(frozen=True)
class Trial:
    """One line of a bench."""

    key: Line
    """What its line has, and no other trial's."""
    words: tuple[str, ...]
    """With which the bench's module makes the line."""

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.key.items())


def read_lines(results: Path) -> list[Line]:
    """The lines that are there."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def missing(trials: Iterable[Trial], lines: Sequence[Line]) -> list[Trial]:
    """Those without a line, in their order."""
    return [trial for trial in trials if not any(trial.key.items() <= line.items() for line in lines)]


def ask(module: str, words: Sequence[str]) -> Line:
    """What a bench's module prints last, in a process of one thread.

    Raises:
        subprocess.CalledProcessError: it failed; what it had to say is on our standard error.
    """
    command = [sys.executable, "-m", module, *words]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, env=alone, stdout=subprocess.PIPE, text=True, check=True)
    line: Line = json.loads(said.stdout.splitlines()[-1])
    return line


def carry_out(module: str, results: Path, trials: Sequence[Trial], at_once: int = AT_ONCE) -> list[Trial]:
    """Those that are missing, so many at once, begun in their order; a failure stops no other trial.

    Args:
        module: the bench's, such as `tests.bench.finetuning`.
        results: file of the lines.
        trials: all that are wanted.
        at_once: processes.

    Returns:
        Trials that failed.
    """
    results.parent.mkdir(exist_ok=True)

    def one(trial: Trial) -> bool:
        try:
            line = ask(module, trial.words)
        except subprocess.CalledProcessError as error:
            told = f"failed ({error.returncode})"
        else:
            told = "done"
            with _APPENDING, results.open("a") as file:
                file.write(f"{json.dumps(trial.key | line | circumstances())}\n")
        print(f"{time.strftime('%H:%M:%S')} {trial}: {told}", file=sys.stderr, flush=True)
        return told == "done"

    wanted = missing(trials, read_lines(results))
    with ThreadPoolExecutor(at_once) as threads:
        return [trial for trial, well in zip(wanted, threads.map(one, wanted), strict=True) if not well]


def asked_of(module: str, about: str | None, arguments: Sequence[str]) -> argparse.Namespace:
    """What a bench of trials is called with: `music` and `work`, or `table`, or the words of `one` trial."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("music", nargs="?", type=Path, help="folder of songs")
    parser.add_argument("work", nargs="?", type=Path, help="folder for data sets and runs")
    parser.add_argument("--table", action="store_true", help="only print the table of the lines that are there")
    parser.add_argument("--one", nargs="+", metavar="WORD", help="this trial alone, in this process")
    asked = parser.parse_args(arguments)
    if asked.work is None and not asked.table and not asked.one:
        parser.error("give MUSIC and WORK, or --table")
    return asked


def show(rows: Iterable[str], failed: Sequence[Trial] = ()) -> None:
    """Print a table; end with an error where trials failed."""
    print("\n".join(rows))
    if failed:
        sys.exit(f"failed: {'; '.join(map(str, failed))}")


def prepare_songs(music: Path, data: Path, parts: Mapping[str, Iterable[int]]) -> None:
    """The data set `data` of songs of the folder `music`, unless it is there.

    Args:
        music: has a folder `song001` and so on.
        data: its folder.
        parts: split → numbers of its songs.
    """
    if (data / "manifest.json").exists():
        return
    rows = {f"song{number:03d}": part for part, numbers in parts.items() for number in numbers}
    data.parent.mkdir(parents=True, exist_ok=True)
    split = data.with_suffix(".split")
    split.write_text("".join(f"{part} {song}\n" for song, part in rows.items()))
    words = [sys.executable, "-m", "jobs.cli", "data", "prepare", *(str(music / song) for song in rows)]
    subprocess.run([*words, "--out", str(data), "--split", str(split)], check=True, stdout=sys.stderr)


def train_and_score(recipe: "Recipe", scored: Path) -> Line:
    """Train in this process, by one thread, then separate and score songs; an interrupted run goes on.

    Args:
        recipe: of the only run in its folder `out`.
        scored: data set whose test songs are separated.
    """
    # Here, since a process that only starts others does without torch.
    import torch

    from jobs.runs.creation import create_run
    from jobs.runs.lookup import list_runs
    from jobs.scoring.evaluate import evaluate
    from jobs.steps.world import World
    from jobs.training.loop import train

    torch.set_num_threads(1)
    begun = list(list_runs(recipe.out))
    run = begun[0] if begun else create_run(recipe)
    began_s = time.process_time()
    train(run.recipe(), run.path, World.alone(torch.device("cpu")))
    trained_s = time.process_time() - began_s
    found = evaluate(run.path, scored, "test", None, "cpu")
    if found.problems:
        raise ValueError(f"not scored: {found.problems}")
    scores = found.plain()
    return {
        "steps": recipe.steps, "core_s": round(trained_s, 1), "core_s_is_whole": not begun,
        "improvement_db": scores["mean"]["improvement_db"], "sdr_db": scores["mean"]["sdr_db"],
        "songs_db": {row["id"]: row["improvement_db"] for row in scores["songs"]},
    }  # fmt: skip
