"""Unequal machines as one: what a run on all of them reaches of the sum of what each does alone, in a LAN in a box.

Hosts whose workers have CPU quotas stand for unequal cards; the head is a host of its own without one. Alone: a run of
one worker on each host, all at the same time, same recipe, same code. Together: one run on all of them, with measured
shares and, for comparison, equal ones. Items a second, from the steps' own times, after warm-up.

Alone is measured before and after: cores of a rented machine get slower and faster by a third within minutes. Where the
two differ by much, the ratio says little.
"""

import statistics
from pathlib import Path
from typing import Any

from jobs.recipe import NodesSpec, Recipe
from jobs.shares import Speed, cut_shares, equal_shares, longest_s
from tests.bench.measurement import Benchmark
from tests.box.runs import Run, items_per_s, pace, share_data, start_cluster, submit
from tests.lan import SHARED, Lan
from vr_core.config import plain, validate
from vr_core.specs import StftSpec

CORES = 1.376
"""Of all workers together: this machine's two also carry four Rays."""
CASES = {
    "1 : 0.86 : 0.36": (1, 0.86, 0.36),
    "1 : 0.5": (1, 0.5),
    "1 : 0.86 : 0.6 : 0.36": (1, 0.86, 0.6, 0.36),
}
ITEMS = 64
MICRO_BATCH = 2
LEAST_MICRO_BATCHES = 200
ALONE_STEPS = 8
"""Of 32 micro-batches each, after one that is not counted: the slowest host does 200 and more, twice."""
STEADY_STEPS, STEADY_STEPS_QUICK = 60, 40
NAMES = ("study", "den", "loft", "cellar")


def recipe_of(name: str, data: Path, nodes: NodesSpec, shares: str = "measured") -> Recipe:
    """One model and batch for all runs; nothing but steps happens in them."""
    return validate(
        Recipe,
        {
            "name": name, "data": data, "out": f"{SHARED}/runs", "steps": 100_000,
            "model": {"name": "dense_frame_transformer", "width": 64, "blocks": 2, "heads": 2, "feedforward": 192,
                      "max_distance_frames": 64},
            "batch": {"items": ITEMS, "micro_batch": MICRO_BATCH, "crop_frames": 64},
            "validation": {"every_steps": 100_000}, "checkpoint": {"every_s": 1e6},
            "workers": {"device": "cpu", "shares": shares}, "nodes": plain(nodes), "log": {"tensorboard": False},
        },
        "bench",
    )  # fmt: skip


def measure_case(speeds: tuple[float, ...], quick: bool, one_at_a_time: bool = False) -> dict[str, Any]:
    """One cluster: alone all at once, together with measured and with equal shares, alone again."""
    names = NAMES[: len(speeds)]
    cores = {name: CORES * speed / sum(speeds) for name, speed in zip(names, speeds, strict=True)}
    with Lan("attic", *names) as lan:
        head = lan["attic"]
        data = share_data(lan, StftSpec(n_fft=512, hop=256))
        start_cluster(head, *(lan[name] for name in names))

        def begin(run: Run) -> Run:
            run.await_started("1.1")
            pace(lan, cores, run.worker_pids("1.1"))
            return run

        def stop(run: Run) -> None:
            head.vr("jobs", "stop", run.name, "--out", f"{SHARED}/runs")

        def steps_alone(when: str, at_once: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
            runs = {
                name: submit(lan, head, recipe_of(f"{when}-{name}", data, NodesSpec(labels={"vr/node": name})))
                for name in at_once
            }
            for run in runs.values():
                begin(run)
            since_s = max(run.await_steps(1)[0]["time_s"] for run in runs.values())
            runs[min(at_once, key=cores.__getitem__)].await_steps(ALONE_STEPS, since_s)
            steps = {name: [s for s in run.lines("step") if s["time_s"] > since_s][1:] for name, run in runs.items()}
            for run in runs.values():
                stop(run)
            return steps

        before = steps_alone("before", names)
        together: dict[str, Any] = {}
        for shares in ("measured",) if quick else ("equal", "measured"):
            everyone = NodesSpec(min=len(names), exclude=("attic",))
            run = begin(submit(lan, head, recipe_of(f"together-{shares}", data, everyone, shares)))
            warm = 20 if shares == "measured" else 4
            wanted = STEADY_STEPS_QUICK if quick else STEADY_STEPS
            together[shares] = run.await_steps(warm + wanted, timeout_s=600)[warm:]
            recuts = [line["shares"] for line in run.lines("shares")]
            stop(run)
        after = steps_alone("after", names)
        one = {name: items_per_s(steps_alone("one", (name,))[name]) for name in names} if one_at_a_time else None
    at_once = [{name: items_per_s(steps) for name, steps in phase.items()} for phase in (before, after)]
    alone = {name: statistics.fmean(phase[name] for phase in at_once) for name in names}
    total = sum(alone.values())
    steady = together["measured"]
    busy = [statistics.median(column) for column in zip(*(step["busy_s"] for step in steady), strict=True)]
    model = [Speed(0, 1 / rate, MICRO_BATCH) for rate in alone.values()]
    return {
        "reached": items_per_s(steady) / total,
        "whole_items_allow": ITEMS / longest_s(model, cut_shares(model, ITEMS)) / total,
        "equal_reached": items_per_s(together["equal"]) / total if "equal" in together else None,
        "equal_in_theory": ITEMS / longest_s(model, equal_shares(len(model), ITEMS)) / total,
        "alone_items_per_s": [{name: round(rate, 2) for name, rate in phase.items()} for phase in at_once],
        "alone_micro_batches": {
            name: (len(before[name]) + len(after[name])) * -(-ITEMS // MICRO_BATCH) for name in names
        },
        "one_at_a_time_items_per_s": one,
        "together_items_per_s": items_per_s(steady),
        "step_s": statistics.median(step["step_s"] for step in steady),
        "busy_s": [round(seconds, 3) for seconds in busy],
        "waits_for_data": statistics.fmean(step["data_wait"] for step in steady),
        "shares_in_turn": recuts,
    }


def measure(quick: bool) -> dict[str, Any]:
    """The first case, or all."""
    cases = dict(list(CASES.items())[:1]) if quick else CASES
    found = {
        name: measure_case(speeds, quick, not quick and name == next(iter(CASES))) for name, speeds in cases.items()
    }
    first = found.pop(next(iter(found)))
    return {"ratio": first["reached"], **first, **({"other_cases": found} if found else {})}


BENCHMARK = Benchmark("items/s of one run on 1 : 0.86 : 0.36 over the sum of what the three do alone", measure)
