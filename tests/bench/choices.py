"""What choices within a model cost or gain: `python -m tests.bench.choices MUSIC WORK`.

A choice is a small recipe with one thing changed. All ways are trained by the seeds of the zoo and on its songs, and
scored. The trials (`trials.py`) have their lines in `results/choices.jsonl`.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from jobs.recipes.shipped import read_recipe
from tests.bench.trials import Line, Trial, asked_of, carry_out, prepare_songs, read_lines, show, train_and_score
from tests.bench.zoo import PARTS, SEEDS, training_recipe

MODULE = "tests.bench.choices"
RESULTS = Path(__file__).with_name("results") / "choices.jsonl"
STEPS = 300


def _take_batch_norm(patches: ExitStack) -> None:
    """In place of every norm over an item, in training and in the separation that is scored.

    The product refuses a batch norm, since a run's result would depend on how workers cut a step. Here one process
    computes whole steps, so that nothing is cut, and the refusal is off. Separation takes the running statistics, which
    are those of the weights of the last step: the moving average is of weights alone.
    """
    from torch import nn

    patches.enter_context(patch.object(nn, "GroupNorm", lambda groups, channels: nn.BatchNorm2d(channels)))
    patches.enter_context(patch("vr_core.optim.require_per_item", lambda model: None))


@dataclass(frozen=True)
class Choice:
    """A recipe and ways to change it."""

    recipe: str
    ways: Mapping[str, tuple[str, ...]]
    """Name → keys that are replaced; the first is as shipped."""
    patches: Mapping[str, Callable[[ExitStack], None]] = field(default_factory=dict)
    """Name of a way that the product does not offer → what makes it one."""


CHOICES: dict[str, Choice] = {
    "norm": Choice("songs-unet", {"item": (), "batch": ()}, {"batch": _take_batch_norm}),
    "positions": Choice(
        "songs-dense-frame-transformer",
        {"relative": (), "scalar": ("model.positions=scalar",), "rotary": ("model.positions=rotary",)},
    ),
}


def run_one(name: str, way: str, seed: int, work: Path) -> Line:
    """Train and score in this process."""
    choice = CHOICES[name]
    recipe = training_recipe(choice.recipe, STEPS, seed, work, f"{name}-{way}", *choice.ways[way])
    # A batch norm's batch is what is computed at once.
    assert recipe.batch.micro_batch == recipe.batch.items
    with ExitStack() as patches:
        if way in choice.patches:
            choice.patches[way](patches)
        return train_and_score(recipe, work / "songs")


def digest_of(choice: Choice, way: str) -> str:
    """Of the settings that a way trains with."""
    return read_recipe(choice.recipe, choice.ways[way]).digest()


def trials_of(*words: str) -> list[Trial]:
    """All of them, seed by seed; `words` go before."""
    return [
        Trial(
            {
                "choice": name, "way": way, "recipe": choice.recipe, "digest": digest_of(choice, way),
                "steps": STEPS, "seed": seed,
            },
            (*words, "--one", name, way, str(seed)),
        )
        for name, choice in CHOICES.items()
        for seed in SEEDS
        for way in choice.ways
    ]  # fmt: skip


def table(lines: Sequence[Line]) -> list[str]:
    """A row for each way that has all its lines."""
    rows = ["| choice | way | dB, seed 1 | seed 2 | mean | core-seconds |", "|---|---|--:|--:|--:|--:|"]
    for name, choice in CHOICES.items():
        for way in choice.ways:
            key = {"choice": name, "way": way, "digest": digest_of(choice, way), "steps": STEPS}
            own = sorted((line for line in lines if key.items() <= line.items()), key=lambda line: int(line["seed"]))
            if len(own) < len(SEEDS):
                continue
            dbs = [line["improvement_db"] for line in own]
            scores = " | ".join(f"{db:.2f}" for db in (*dbs, statistics.fmean(dbs)))
            core_s = statistics.fmean(line["core_s"] for line in own)
            rows.append(f"| {name} | {way} | {scores} | {core_s:.0f} |")
    return rows


def main(arguments: list[str]) -> None:
    """As the module says."""
    asked = asked_of(MODULE, __doc__, arguments)
    if asked.one:
        name, way, seed = asked.one
        print(json.dumps(run_one(name, way, int(seed), asked.work)))
        return
    failed: list[Trial] = []
    if not asked.table:
        prepare_songs(asked.music, asked.work / "songs", PARTS)
        failed = carry_out(MODULE, RESULTS, trials_of(str(asked.music), str(asked.work)))
    show(table(read_lines(RESULTS)), failed)


if __name__ == "__main__":
    main(sys.argv[1:])
