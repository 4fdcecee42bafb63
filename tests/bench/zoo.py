"""All architectures side by side, small and from nothing, by their recipes `songs-*`.

    python -m tests.bench.zoo MUSIC WORK    what has no line yet, then the table
    python -m tests.bench.zoo --table       the table alone

MUSIC has the songs 001 to 036: 1 to 30 are trained on, 31 to 36 are scored. First each recipe's costs are measured
(`recipe_costs.py`), one at a time. Then every recipe is trained for equal core-seconds, by two seeds, and scored. Last
comes the speed of separation: by two threads it is wall time, which other work on the machine makes longer.

Trials (`trials.py`) have their lines in `results/zoo.jsonl`. A line is of one digest of a recipe: one that changed is
measured again. Costs are measured again where their line is taken out, on a machine with nothing else to do. A training
whose steps are then off by more than a tenth is repeated. Recipes are found by listing.
"""

import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.recipe import Recipe
from jobs.recipes.shipped import read_recipe
from tests.bench.measurement import Benchmark
from tests.bench.trials import (
    Line,
    Trial,
    ask,
    asked_of,
    carry_out,
    prepare_songs,
    read_lines,
    show,
    train_and_score,
)
from tests.jobs.songs_recipes import songs_recipes

MODULE = "tests.bench.zoo"
RESULTS = Path(__file__).with_name("results") / "zoo.jsonl"
COSTS, SEPARATION, TRAINING = "costs", "separation", "training"
"""What is measured in a process."""
SEEDS = (1, 2)
BUDGET_CORE_S = 450
PARTS = {"train": range(1, 31), "test": range(31, 37)}
NEAR = 0.1
"""A training still counts whose steps are so near to what the newest costs allow: these drift with the machine."""
LEAST_WARM_UPS = 3
"""Of a run's steps; with fewer the warm-up is as long a part of it as of the recipe."""


def steps_within(budget_core_s: float, step_core_s: float) -> int:
    """Whole steps, one at least."""
    return max(1, int(budget_core_s / step_core_s))


def warm_up_of(recipe: Recipe, steps: int) -> int:
    """Steps of the warm-up where the recipe is trained for so many."""
    own = recipe.optim.warmup_steps
    return own if steps >= LEAST_WARM_UPS * own else round(own * steps / recipe.steps)


def measurement_of(what: str, name: str, digest: str, *words: str) -> Trial:
    """Costs of a recipe, or the speed of its separation; `words` go before."""
    return Trial({"what": what, "recipe": name, "digest": digest}, (*words, "--one", what, name))


def training_of(costs: Line, seed: int, lines: Iterable[Line] = (), *words: str) -> Trial:
    """The training that the costs of a recipe allow, or one of `lines` that is near to it; `words` go before."""
    steps = steps_within(BUDGET_CORE_S, costs["loop_step_core_s"])
    done = trained(costs, seed, lines)
    if done is not None and abs(done["steps"] - steps) <= NEAR * steps:
        steps = done["steps"]
    key = _key_of(costs, seed) | {"steps": steps}
    return Trial(key, (*words, "--one", TRAINING, costs["recipe"], str(seed), str(steps)))


def trained(costs: Line, seed: int, lines: Iterable[Line]) -> Line | None:
    """The training of a recipe by a seed that counts: with the steps that are nearest to what its costs allow."""
    steps = steps_within(BUDGET_CORE_S, costs["loop_step_core_s"])
    found = [line for line in lines if _key_of(costs, seed).items() <= line.items()]
    return min(found, key=lambda line: abs(line["steps"] - steps), default=None)


def _key_of(costs: Line, seed: int) -> dict[str, Any]:
    return {
        "what": TRAINING, "recipe": costs["recipe"], "digest": costs["digest"], "seed": seed,
        "budget_core_s": BUDGET_CORE_S,
    }  # fmt: skip


def shipped_digests() -> dict[str, str]:
    """Recipe → digest of its settings."""
    return {name: read_recipe(name).digest() for name in songs_recipes()}


def current(lines: Iterable[Line], what: str, digests: Mapping[str, str]) -> list[Line]:
    """The lines of recipes as they are now."""
    return [line for line in lines if line["what"] == what and digests.get(line["recipe"]) == line["digest"]]


def table(lines: Sequence[Line], digests: Mapping[str, str]) -> list[str]:
    """Of recipes whose costs are known, the smallest first: seeds spread too far for an order by their scores."""
    speeds = {line["recipe"]: line for line in current(lines, SEPARATION, digests)}
    rows = [
        "| recipe | parameters | GFLOP for a second of audio | memory of a step, MB | core-seconds of a step "
        "| × real time, 1 core | 2 cores | core-seconds trained | dB, seed 1 | seed 2 | mean |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for line in sorted(current(lines, COSTS, digests), key=lambda line: (line["parameters"], line["recipe"])):
        name = line["recipe"]
        times = [speeds.get(name, {}).get(f"times_real_time_{threads}") for threads in (1, 2)]
        runs = [trained(line, seed, lines) for seed in SEEDS]
        each = [run and run["improvement_db"] for run in runs]
        known = [run for run in runs if run is not None]
        spent_s = statistics.fmean(run["steps"] for run in known) * line["loop_step_core_s"] if known else None
        mean = statistics.fmean(run["improvement_db"] for run in known) if len(known) == len(SEEDS) else None
        cells = [
            f"`{name}`", f"{line['parameters']:,}", f"{line['gflop_per_s']:.2f}",
            f"{line['step_peak_bytes'] / 1e6:,.0f}", f"{line['step_core_s']:.2f}",
            *("–" if value is None else f"{value:.1f}" for value in times),
            "–" if spent_s is None else f"{spent_s:.0f}",
            *("–" if value is None else f"{value:.2f}" for value in (*each, mean)),
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def measure_costs(name: str, work: Path | None) -> Line:
    """In this process; without a folder of the data set and for a run, no step of the product's training."""
    from tests.bench import recipe_costs

    recipe = read_recipe(name)
    found: Line = recipe_costs.step_costs(recipe) | recipe_costs.size_of(recipe)
    if work is not None:
        short = training_recipe(name, recipe_costs.LOOP_STEPS, 0, work, COSTS)
        found["loop_step_core_s"] = recipe_costs.loop_step_core_s(short)
    return found


def measure_separation(name: str) -> Line:
    """In this process."""
    from tests.bench import recipe_costs

    return recipe_costs.separation_speeds(read_recipe(name))


def training_recipe(name: str, steps: int, seed: int, work: Path, kind: str, *more: str) -> Recipe:
    """A shipped recipe for so many steps with `more` keys replaced, its run in a folder of its own."""
    asked = read_recipe(name, more)
    out = work / kind / f"{name}-{asked.digest()}-{steps}-{seed}"
    changes = [
        f"steps={steps}", f"seed={seed}", f"data={work / 'songs'}", f"out={out}", "workers={device: cpu}",
        f"optim.warmup_steps={warm_up_of(asked, steps)}", f"validation.every_steps={steps}",
        "log.tensorboard=false", *more,
    ]  # fmt: skip
    return read_recipe(name, changes)


def measure(quick: bool) -> dict[str, Any]:
    """Without music: separation, and where it need not be quick the costs but for the product's training."""
    found = {}
    for name in songs_recipes():
        found[name] = ask(MODULE, ("--one", SEPARATION, name))
        if not quick:
            found[name] |= ask(MODULE, ("--one", COSTS, name))
    return {"ratio": min(line["times_real_time_1"] for line in found.values())} | found


BENCHMARK = Benchmark(
    "the length of a song over the time that the slowest small model separates it in, one core", measure
)


def main(arguments: list[str]) -> None:
    """As the module says."""
    asked = asked_of(MODULE, __doc__, arguments)
    if asked.one:
        what, name, *numbers = asked.one
        if what == COSTS:
            print(json.dumps(measure_costs(name, asked.work)))
        elif what == SEPARATION:
            print(json.dumps(measure_separation(name)))
        else:
            seed, steps = map(int, numbers)
            recipe = training_recipe(name, steps, seed, asked.work, "runs")
            print(json.dumps(train_and_score(recipe, asked.work / "songs")))
        return
    digests = shipped_digests()
    failed: list[Trial] = []
    if not asked.table:
        prepare_songs(asked.music, asked.work / "songs", PARTS)
        words = str(asked.music), str(asked.work)
        measured = {
            what: [measurement_of(what, *each, *words) for each in digests.items()] for what in (COSTS, SEPARATION)
        }
        failed += carry_out(MODULE, RESULTS, measured[COSTS], at_once=1)
        lines = read_lines(RESULTS)
        costs = current(lines, COSTS, digests)
        trainings = [training_of(line, seed, lines, *words) for seed in SEEDS for line in costs]
        failed += carry_out(MODULE, RESULTS, trainings)
        failed += carry_out(MODULE, RESULTS, measured[SEPARATION], at_once=1)
    show(table(read_lines(RESULTS), digests), failed)


if __name__ == "__main__":
    main(sys.argv[1:])
