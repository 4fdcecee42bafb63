"""What a norm over an item costs or gains against batch norm: `python -m tests.bench.norm MUSIC WORK`.

The model of `songs-unet` is trained with either for equal steps, by the seeds of the zoo and on its songs, and scored.
The trials (`trials.py`) have their lines in `results/norm.jsonl`.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

from tests.bench.trials import Line, Trial, asked_of, carry_out, prepare_songs, read_lines, show, train_and_score
from tests.bench.zoo import PARTS, SEEDS, shipped_digests, training_recipe

MODULE = "tests.bench.norm"
RESULTS = Path(__file__).with_name("results") / "norm.jsonl"
RECIPE, STEPS = "songs-unet", 300
ITEM, BATCH = "item", "batch"
NORMS = (ITEM, BATCH)


def run_one(norm: str, seed: int, work: Path) -> Line:
    """Train and score in this process."""
    recipe = training_recipe(RECIPE, STEPS, seed, work, f"norm-{norm}")
    # A batch norm's batch is what is computed at once.
    assert recipe.batch.micro_batch == recipe.batch.items
    with ExitStack() as patches:
        if norm == BATCH:
            _take_batch_norm(patches)
        return train_and_score(recipe, work / "songs")


def _take_batch_norm(patches: ExitStack) -> None:
    """In place of every norm over an item, in training and in the separation that is scored.

    The product refuses a batch norm, since a run's result would depend on how workers cut a step. Here one process
    computes whole steps, so that nothing is cut, and the refusal is off. Separation takes the running statistics, which
    are those of the weights of the last step: the moving average is of weights alone.
    """
    from torch import nn

    patches.enter_context(patch.object(nn, "GroupNorm", lambda groups, channels: nn.BatchNorm2d(channels)))
    patches.enter_context(patch("vr_core.optim.require_per_item", lambda model: None))


def trials_of(digest: str, *words: str) -> list[Trial]:
    """All of them, seed by seed."""
    return [
        Trial(
            {"recipe": RECIPE, "digest": digest, "steps": STEPS, "norm": norm, "seed": seed},
            (*words, "--one", norm, str(seed)),
        )
        for seed in SEEDS
        for norm in NORMS
    ]


def table(lines: Sequence[Line], digest: str) -> list[str]:
    """A row for each norm that has all its lines."""
    rows = ["| norm over | dB, seed 1 | seed 2 | mean | core-seconds |", "|---|--:|--:|--:|--:|"]
    for norm in NORMS:
        own = [line for line in lines if (line["norm"], line["digest"]) == (norm, digest)]
        if len(own) < len(SEEDS):
            continue
        dbs = [line["improvement_db"] for line in sorted(own, key=lambda line: int(line["seed"]))]
        scores = " | ".join(f"{db:.2f}" for db in (*dbs, statistics.fmean(dbs)))
        rows.append(f"| {norm} | {scores} | {statistics.fmean(line['core_s'] for line in own):.0f} |")
    return rows


def main(arguments: list[str]) -> None:
    """As the module says."""
    asked = asked_of(MODULE, __doc__, arguments)
    if asked.one:
        norm, seed = asked.one
        print(json.dumps(run_one(norm, int(seed), asked.work)))
        return
    digest = shipped_digests()[RECIPE]
    failed: list[Trial] = []
    if not asked.table:
        prepare_songs(asked.music, asked.work / "songs", PARTS)
        failed = carry_out(MODULE, RESULTS, trials_of(digest, str(asked.music), str(asked.work)))
    show(table(read_lines(RESULTS), digest), failed)


if __name__ == "__main__":
    main(sys.argv[1:])
