"""Unequal machines as one: what a run on all of them reaches of the sum of what each does alone, in a LAN in a box.

Hosts whose workers have CPU quotas stand for unequal cards; the head is a host of its own without one. Alone: a run of
one worker on each host, all at the same time, same recipe, same code. Together: one run on all of them, with measured
shares and, for comparison, equal ones. Items a second, from the steps' own times, after warm-up.

Runs that are compared are there at once, and take turns of a few seconds in which the workers of the others are
stopped: a machine's cores get slower and faster by a fifth within a minute, so that what is compared must be measured
in turns. A step that was interrupted counts with the time in which it could run.
"""

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import psutil

from jobs.recipe import NodesSpec, Recipe
from jobs.steps.shares import Speed, cut_shares, equal_shares, longest_s
from tests.bench.measurement import Benchmark
from tests.box.runs import PATIENCE_S, Run, pace, share_data, start_cluster, submit
from tests.lan import SHARED, Lan, await_true
from vr_core.config import plain, validate
from vr_core.specs.stft import StftSpec

CORES = 1.11
"""Of all workers together: on this machine's two, four Rays and the actors of four runs take 0.6 besides."""
CASES = {
    "1 : 0.86 : 0.36": (1, 0.86, 0.36),
    "1 : 0.5": (1, 0.5),
    "1 : 0.86 : 0.6 : 0.36": (1, 0.86, 0.6, 0.36),
}
ITEMS, FEWER_ITEMS = 128, 64
MICRO_BATCH = 2
TURN_S = 10.0
"""Several steps: what is interrupted tells the shares little, and must stay rare among what they go by."""
TURNS, TURNS_QUICK, BLOCKS = 12, 10, 4
"""Of each run; its rate is told apart for so many blocks of them."""
TURNS_BESIDES = 4
"""What is printed for comparison: equal shares, one at a time."""
WARM_STEPS = 32
"""In which measured shares find what quotas have made of the speeds."""
NAMES = ("study", "den", "loft", "cellar")


def recipe_of(name: str, data: Path, nodes: NodesSpec, items: int, shares: str = "measured") -> Recipe:
    """One model and batch for all runs; nothing but steps happens in them."""
    return validate(
        Recipe,
        {
            "name": name, "data": data, "out": f"{SHARED}/runs", "steps": 100_000,
            "model": {"name": "dense_frame_transformer", "width": 64, "blocks": 2, "heads": 2, "feedforward": 192,
                      "max_distance_frames": 64},
            "batch": {"items": items, "micro_batch": MICRO_BATCH, "crop_frames": 64},
            "validation": {"every_steps": 100_000}, "checkpoint": {"every_s": 1e6},
            "workers": {"device": "cpu", "shares": shares}, "nodes": plain(nodes), "log": {"tensorboard": False},
        },
        "bench",
    )  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A line of metrics.jsonl, and for how long of its time the run was not stopped."""

    line: dict[str, Any]
    could_run_s: float

    @property
    def whole(self) -> bool:
        """Whether it was not interrupted."""
        return self.could_run_s > self.line["step_s"] - 1e-3


def within_s(line: dict[str, Any], turns: list[tuple[float, float]]) -> float:
    """Seconds of a step, a line of metrics.jsonl, that lie in some of the turns."""
    began, ended = line["time_s"] - line["step_s"], line["time_s"]
    return sum(max(0.0, min(end, ended) - max(begin, began)) for begin, end in turns)


def steps_within(told: list[dict[str, Any]], turns: list[tuple[float, float]]) -> list[Step]:
    """Of lines of metrics.jsonl, the steps that began after the first turn did and ended before the last one did."""
    found = []
    for line in told:
        began, ended = line["time_s"] - line["step_s"], line["time_s"]
        if turns[0][0] <= began and ended <= turns[-1][1]:
            found.append(Step(line, within_s(line, turns)))
    return found


def rate_in(steps: list[Step], turns: list[tuple[float, float]]) -> float:
    """Items a second of some of the turns, taken as even within each step: a slow host's lasts longer than a few turns.

    Raises:
        ValueError: no step went on in these turns.
    """
    items, could_run_s = 0.0, 0.0
    for step in steps:
        of_it_s = within_s(step.line, turns)
        if of_it_s > 0:
            items += sum(step.line["shares"]) * of_it_s / step.could_run_s
            could_run_s += of_it_s
    if could_run_s == 0:
        raise ValueError("no step was taken in these turns: more of them are needed, or longer ones")
    return items / could_run_s


def blocks_of(turns: list[tuple[float, float]], blocks: int) -> list[list[tuple[float, float]]]:
    """The turns, in so many parts of their order."""
    ends = [len(turns) * block // blocks for block in range(blocks + 1)]
    return [turns[begin:end] for begin, end in pairwise(ends)]


@dataclass
class Player:
    """A run that takes its turns."""

    run: Run
    pids: list[int]
    turns: list[tuple[float, float]] = field(default_factory=list)
    """When it could run, begin and end; of those that count."""
    cpu_s: float = 0.0
    """That its workers used in them."""

    def used_s(self) -> float:
        """CPU seconds of its workers up to now."""
        times = [psutil.Process(pid).cpu_times() for pid in self.pids]
        return sum(used.user + used.system for used in times)

    def stop(self) -> None:
        """Its workers do nothing from now on."""
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Its workers go on."""
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)

    def leave(self) -> None:
        """It ends: a run that does nothing still has a dozen processes."""
        self.go_on()
        self.run.lan["attic"].vr("jobs", "stop", self.run.name, "--out", f"{SHARED}/runs")
        await_true(lambda: self.run.state["state"] == "stopped", "its stop", PATIENCE_S)

    def steps(self) -> list[Step]:
        """Those that began and ended while its turns counted."""
        return steps_within(self.run.lines("step"), self.turns)

    def items_per_s(self) -> float:
        """While it could run."""
        return rate_in(self.steps(), self.turns)

    def cores_used(self) -> float:
        """By its workers, while it could run."""
        return self.cpu_s / sum(end - begin for begin, end in self.turns)

    def by_block(self) -> list[float]:
        """Items a second of each block of turns."""
        steps = self.steps()
        return [rate_in(steps, block) for block in blocks_of(self.turns, BLOCKS)]


def take_turns(players: list[list[Player]], turns: int) -> None:
    """Each group of `players` runs for `TURN_S`, `turns` times; these count. All are stopped before and after."""
    for player in chain.from_iterable(players):
        player.turns.clear()
        player.cpu_s = -player.used_s()
    for turn in range(turns):
        # Back and forth: what gets slower or faster meanwhile is the same for all.
        for group in players if turn % 2 == 0 else reversed(players):
            began_s = time.time()
            for player in group:
                player.go_on()
            time.sleep(TURN_S)  # the measurement itself
            for player in group:
                player.turns.append((began_s, time.time()))
                player.stop()
    for player in chain.from_iterable(players):
        player.cpu_s += player.used_s()


def fixed_part(home: Path) -> float:
    """The part of a micro-batch's time that does not depend on its size, as a PC has measured and kept it."""
    [file] = (home / ".local/state/vr/speeds").glob("*.json")
    speed = json.loads(file.read_text())["speed"]
    return float(speed["fixed_s"] / (speed["fixed_s"] + MICRO_BATCH * speed["item_s"]))


@contextmanager
def cluster_of(speeds: tuple[float, ...]) -> Iterator[tuple[Lan, Path, dict[str, float]]]:
    """A head and as many hosts as `speeds`; the data set; the cores of each host's workers."""
    names = NAMES[: len(speeds)]
    with Lan("attic", *names) as lan:
        data = share_data(lan, StftSpec(n_fft=512, hop=256))
        start_cluster(lan["attic"], *(lan[name] for name in names), cpus=3)
        yield lan, data, {name: CORES * speed / sum(speeds) for name, speed in zip(names, speeds, strict=True)}


def measure_case(speeds: tuple[float, ...], items: int, quick: bool) -> dict[str, Any]:
    """One cluster: alone, all at once and one at a time, and together with measured and with equal shares."""
    with cluster_of(speeds) as (lan, data, cores):

        def begin(recipe: Recipe) -> Player:
            run = submit(lan, lan["attic"], recipe)
            run.await_started("1.1")
            pids = run.worker_pids("1.1")
            pace(lan, cores, pids)
            return Player(run, list(pids.values()))

        def warmed(player: Player, steps: int) -> Player:
            player.run.await_steps(steps)
            player.stop()
            return player

        alone = {
            name: warmed(begin(recipe_of(f"alone-{name}", data, NodesSpec(labels={"vr/node": name}), items)), 1)
            for name in cores
        }
        everyone = NodesSpec(min=len(cores), exclude=("attic",))
        measured = warmed(begin(recipe_of("together-measured", data, everyone, items)), WARM_STEPS)
        take_turns([list(alone.values()), [measured]], TURNS_QUICK if quick else TURNS)
        sums = [sum(rates) for rates in zip(*(player.by_block() for player in alone.values()), strict=True)]
        reached = [one / total for one, total in zip(measured.by_block(), sums, strict=True)]
        whole = [step.line for step in measured.steps() if step.whole]
        step_s = items / measured.items_per_s()
        rates = {name: player.items_per_s() for name, player in alone.items()}
        # Who waits uses none; what an item costs more of them is no waiting.
        cores_used = {"alone": sum(player.cores_used() for player in alone.values()), "together": measured.cores_used()}
        counted = {name: len(player.steps()) for name, player in alone.items()}
        equal_reached, one_at_a_time = None, {}
        if not quick:
            measured.leave()
            equal = warmed(begin(recipe_of("together-equal", data, everyone, items, "equal")), 1)
            take_turns([list(alone.values()), [equal]], TURNS_BESIDES)
            equal_reached = equal.items_per_s() / sum(player.items_per_s() for player in alone.values())
            take_turns([[player] for player in alone.values()], TURNS_BESIDES)
            one_at_a_time = {name: round(player.items_per_s(), 2) for name, player in alone.items()}
        recuts = [line["shares"] for line in measured.run.lines("shares")]
        # Of two items at once, the part that one takes as well: measured by the runs as they began.
        fixed = statistics.median(fixed_part(lan[name].home) for name in cores)
    model = [Speed(MICRO_BATCH * fixed / rate, (1 - fixed) / rate, MICRO_BATCH) for rate in rates.values()]
    whole_s = longest_s(model, cut_shares(model, items))
    total = sum(rates.values())
    # An interrupted step does not say how long its workers could compute: by the others.
    whole_step_s = statistics.fmean(step["step_s"] for step in whole)
    computed = statistics.fmean(max(step["busy_s"]) for step in whole) / whole_step_s
    busy = [statistics.fmean(column) / whole_step_s for column in zip(*(step["busy_s"] for step in whole), strict=True)]
    return {
        "reached": items / step_s / total,
        "reached_in_block": [round(part, 3) for part in reached],
        "standard_error": statistics.stdev(reached) / len(reached) ** 0.5,
        "whole_items_allow": items / whole_s / total,
        "equal_reached": equal_reached,
        "equal_in_theory": items / longest_s(model, equal_shares(len(model), items)) / total,
        "fixed_part_of_a_micro_batch": round(fixed, 2),
        "alone_items_per_s": {name: round(rate, 2) for name, rate in rates.items()},
        "alone_micro_batches": {name: steps * -(-items // MICRO_BATCH) for name, steps in counted.items()},
        "one_at_a_time_items_per_s": one_at_a_time,
        "together_items_per_s": items / step_s,
        "cores_used": cores_used,
        "cpu_s_per_item": {"alone": cores_used["alone"] / total, "together": cores_used["together"] * step_s / items},
        "step_s": {
            "as_the_sum_of_alone": round(items / total, 4),
            "in_whole_items": round(whole_s, 4),
            "slowest_on_average": round(step_s * max(busy), 4),
            "until_the_slowest_has_computed": round(step_s * computed, 4),
            "in_all": round(step_s, 4),
        },
        "busy": [round(part, 3) for part in busy],
        "waits_for_data": statistics.fmean(step["data_wait"] for step in whole),
        "shares": whole[-1]["shares"],
        "shares_in_turn": recuts,
    }


def measure(quick: bool) -> dict[str, Any]:
    """The first case, or all, and the first with half as many items a step."""
    name, speeds = next(iter(CASES.items()))
    wanted = {other: (CASES[other], ITEMS, quick) for other in ([name] if quick else CASES)}
    if not quick:
        wanted[f"{name}, {FEWER_ITEMS} items"] = (speeds, FEWER_ITEMS, True)
    others = {}
    for other, case in wanted.items():
        others[other] = measure_case(*case)
        if not quick:  # it takes most of an hour: what was measured is not lost if what follows fails
            print(json.dumps({other: others[other]}), file=sys.stderr, flush=True)
    first = others.pop(name)
    return {"ratio": first["reached"], **first, **({"other_cases": others} if others else {})}


BENCHMARK = Benchmark("items/s of one run on 1 : 0.86 : 0.36 over the sum of what the three do alone", measure)
