"""Ways of becoming one over a slow link: what each reaches of the rate without any communication, and what it costs.

Speed, in a LAN in a box: two hosts, whose link is so slow that an exchange of all gradients beside the computing of a
step is what it is for 123 M parameters and 16 items on an RTX 3090 Ti over 1 GbE (4.2 s : 0.45 s). Without
communication: a run of one worker on each host, both at the same time. Then one run for each way, and one that may
choose among all of them.

Loss, over the shared songs where they are, else over invented ones: the validation loss at the end of `songs-finetune`
from nothing, by two workers, for each way and seed. The items are the same, and so is their order.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.shards.splits import SplitByFraction, parse_split
from jobs.planning.arithmetic import arithmetic_of
from jobs.planning.forecast import OF_THE_LINE
from jobs.recipe import SYNC_NAMES, NodesSpec, Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.metrics import read_metrics
from jobs.steps.shares import exchange_of, ring_s
from tests.bench.codec import MUSIC, songs
from tests.bench.measurement import ROOT, Benchmark
from tests.box.runs import Run, items_per_s, pace, share_data, start_cluster, submit
from tests.jobs import ranks
from tests.lan import SHARED, Lan
from vr_core.config import load, plain, to_yaml, validate
from vr_core.specs.stft import StftSpec

NAMES = ("study", "den")
CORES = 0.65
"""Of each worker: this machine's two also carry three Rays."""
ITEMS = 16
EXCHANGE_OF_A_STEP = 4.2 / 0.45
STEPS = {"plain": 10, "bf16": 12, "diloco": 64, "auto": 64}
"""Of each run; the first ones are not counted."""
WARM = 4
DILOCO_WARM = 32
SEEDS, LOSS_STEPS = (0, 1, 2), 800
RECIPES = ROOT / "jobs" / "recipes"


def recipe_of(name: str, data: Path, nodes: NodesSpec, sync: Any) -> Recipe:
    """One model and batch for all runs; nothing but steps happens in them."""
    return validate(
        Recipe,
        {
            "name": name, "data": data, "out": f"{SHARED}/runs", "steps": 100_000, "sync": sync,
            "model": {"name": "dense_frame_transformer", "width": 384, "blocks": 4, "heads": 4, "feedforward": 1536,
                      "max_distance_frames": 32},
            "batch": {"items": ITEMS, "micro_batch": ITEMS, "crop_frames": 32},
            "diloco": {"start_step": 0},
            "validation": {"every_steps": 100_000}, "checkpoint": {"every_s": 1e6},
            "workers": {"device": "cpu"}, "nodes": plain(nodes), "log": {"tensorboard": False},
        },
        "bench",
    )  # fmt: skip


def measure_speed() -> dict[str, Any]:
    """Items a second of each way, beside the rate without communication."""
    with Lan("attic", *NAMES) as lan:
        head = lan["attic"]
        data = share_data(lan, StftSpec(n_fft=512, hop=256))
        start_cluster(head, *(lan[name] for name in NAMES))

        def begin(run: Run) -> Run:
            run.await_started("1.1")
            pace(lan, dict.fromkeys(NAMES, CORES), run.worker_pids("1.1"))
            return run

        def stop(run: Run) -> None:
            head.vr("jobs", "stop", run.name, "--out", f"{SHARED}/runs")

        alone = {
            name: submit(lan, head, recipe_of(f"alone-{name}", data, NodesSpec(labels={"vr/node": name}), "plain"))
            for name in NAMES
        }
        since_s = max(begin(run).await_steps(1)[0]["time_s"] for run in alone.values())
        rates = {name: items_per_s(run.await_steps(20, since_s)[1:]) for name, run in alone.items()}
        for run in alone.values():
            stop(run)
        step_s = ITEMS / sum(rates.values())
        recipe = recipe_of("all", data, NodesSpec(min=2, exclude=("attic",)), "plain")
        shapes = arithmetic_of(recipe.model_copy(update={"data": lan.shared / "data"})).shapes
        gradients_bytes = ring_s(exchange_of("plain", recipe, shapes).sent_bytes, [1.0, 1.0])
        mbit = 8 * gradients_bytes / (EXCHANGE_OF_A_STEP * step_s) / OF_THE_LINE / 1e6
        for name in NAMES:
            lan[name].rate(mbit)
        reached: dict[str, float] = {}
        step_seconds: dict[str, float] = {}
        for way, count in STEPS.items():
            sync = {"auto": list(SYNC_NAMES)} if way == "auto" else way
            run = submit(lan, head, recipe_of(way, data, NodesSpec(min=2, exclude=("attic",)), sync))
            steps = begin(run).await_steps(count, timeout_s=600)
            steps = steps[DILOCO_WARM if way in ("diloco", "auto") else WARM :]
            reached[way] = items_per_s(steps) / sum(rates.values())
            step_seconds[way] = ITEMS / items_per_s(steps)
            if way == "auto":
                predicted = {k: v for k, v in run.lines("sync")[0].items() if k in SYNC_NAMES}
            stop(run)
    return {
        "reached": {way: round(part, 3) for way, part in reached.items()},
        "step_s": {way: round(seconds, 3) for way, seconds in step_seconds.items()},
        "predicted_s": {way: round(seconds, 3) for way, seconds in predicted.items()},
        "auto_of_the_best": reached["auto"] / max(reached[way] for way in SYNC_NAMES),
        "alone_items_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "link_mbit": mbit,
        "exchange_of_a_step": EXCHANGE_OF_A_STEP,
    }


def last_loss(folder: Path, data: Path, way: str, seed: int) -> float:
    """Validation loss at the run's end."""
    changes = (
        f"data={data}", f"sync={way}", f"seed={seed}", f"steps={LOSS_STEPS}", "workers.count=2", "workers.device=cpu",
        "workers.shares=equal", "needs_init=false", "init_reset=[]", "optim.layer_decay=1.0", "log.tensorboard=false",
        "diloco.behind_steps=6",
    )  # fmt: skip
    recipe = load(Recipe, RECIPES / "songs-finetune.yaml", changes)
    run = folder / f"{way}-{seed}"
    run.mkdir()
    (run / "recipe.yaml").write_text(to_yaml(recipe))
    assert [rank.wait(None) for rank in ranks.start(run, 2, folder / f"meet-{way}-{seed}")] == [0, 0]
    return float([m["loss"] for m in read_metrics(RunFolder(run)) if m["kind"] == "validation"][-1])


def measure_loss() -> dict[str, Any]:
    """Of each way, against plain, for the same seeds."""
    with tempfile.TemporaryDirectory(prefix="vr-bench-", dir="/var/tmp") as scratch:
        folder = Path(scratch)
        tracks, what = songs(folder / "music")
        split = parse_split(str(RECIPES / "songs.split")) if MUSIC.is_dir() else SplitByFraction(valid=0.1, test=0.2)
        prepare(tracks, folder / "data", PrepareSettings(), split=split)
        losses = {way: [last_loss(folder, folder / "data", way, seed) for seed in SEEDS] for way in SYNC_NAMES}
    ranks.end_fork_server()
    return {
        "loss_of": what,
        "loss": {way: [round(loss, 5) for loss in found] for way, found in losses.items()},
        "loss_over_plain": {
            way: round(statistics.fmean(found) / statistics.fmean(losses["plain"]), 4) for way, found in losses.items()
        },
    }


def measure(quick: bool) -> dict[str, Any]:
    """Speed; losses where there is time."""
    speed = measure_speed()
    best = max(speed["reached"][way] for way in SYNC_NAMES)
    return {"ratio": best, **speed, **({} if quick else measure_loss())}


BENCHMARK = Benchmark("items/s of the best way over a slow link over the rate without communication", measure)
