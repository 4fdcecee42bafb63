"""What a recipe will cost on the PCs of an inventory, before anything runs: pure predictions, and what they rest on.

Speeds are those that earlier runs have kept on this PC, of its own device and of those that it trained with, where the
recipe is the same; else they are assumed from the model's arithmetic and a card's rate. Links are as the doctor has
measured them from here, else assumed. What is assumed is said. How steps are cut and what an exchange costs is
what the run itself goes by (`jobs.steps.shares`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.inventory import Inventory
from jobs.execution.placement import Missing, place_run
from jobs.queue.node_power import offer
from jobs.recipe import SYNC_NAMES, AutoSyncSpec, Recipe, SyncName
from jobs.steps.phases import Phase
from jobs.steps.shares import Speed, choose_sync, cut_shares, exchange_of, ring_s, step_s, worth_keeping
from vr_core.errors import UserError

OF_THE_LINE = 0.94
"""Part of a link's rate that TCP carries, at 1,500 bytes a frame."""
LINKS_GBIT = (1.0, 2.5, 10.0)
UTILISATION = 0.4
"""Of a card's rate that training is assumed to reach, a rule of thumb."""
TFLOPS = {
    "RTX 3080": 59.5, "RTX 3080 Ti": 68.0, "RTX 3090": 71.0, "RTX 3090 Ti": 80.0, "RTX 4080": 97.5, "RTX 4090": 165.0,
}  # fmt: skip
"""Dense bfloat16 with float32 sums, as the makers state it: unmeasured, and said so wherever it is used."""


Shapes = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Machine:
    """One worker's device."""

    name: str
    device: str
    speed: Speed
    basis: str
    """`measured`, or what was assumed."""
    power_w: float | None = None
    link_gbit: float = 1.0
    """Rate of its link to the others, of which `OF_THE_LINE` are carried."""
    link_known: bool = False

    def behind(self, link_gbit: float) -> "Machine":
        """The same behind another link."""
        return replace(self, link_gbit=link_gbit, link_known=True)

    def plain(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "name": self.name, "device": self.device, "item_s": self.speed.item_s, "basis": self.basis,
            "link_gbit": self.link_gbit, "link_known": self.link_known,
        }  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """A run on some machines."""

    link_gbit: float
    """The slowest of their links."""
    sync: SyncName
    machines: tuple[str, ...]
    shares: tuple[int, ...]
    left_out: tuple[str, ...]
    step_s: float
    all_step_s: float
    """With all machines."""
    exchange_s: float
    sent_bytes: int
    """That pass each machine's link in a step, in each direction; the part of a step, where a round has several."""
    ways_s: dict[SyncName, float]
    """Seconds of a step by each way that the recipe allows, without those whom that way would leave out."""
    hours: float
    kwh: float | None
    """Where the power of every card that takes part is known."""

    def plain(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {**self.__dict__, "steps_per_s": 1 / self.step_s}


@dataclass(frozen=True)
class Forecast:
    """All that `vr plan` says of a recipe on some machines."""

    machines: tuple[Machine, ...]
    now: Prediction
    other_links: tuple[Prediction, ...]
    """With all machines behind links of `LINKS_GBIT`."""
    other_ways_s: dict[SyncName, float]
    """Seconds of a step by each way that the recipe does not allow."""
    enough_items: int | None
    """The least `batch.items` at which all machines are worth having."""
    bottleneck: str
    without_bottleneck_s: float
    """Seconds of a step if that were twice as fast."""

    def plain(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "machines": [machine.plain() for machine in self.machines],
            "prediction": self.now.plain(),
            "other_links": [one.plain() for one in self.other_links],
            "other_ways_s": self.other_ways_s,
            "all_are_worth_having_from_items": self.enough_items,
            "bottleneck": {"what": self.bottleneck, "step_s_if_twice_as_fast": self.without_bottleneck_s},
        }


def outlook(machines: Sequence[Machine], recipe: Recipe, shapes: Shapes) -> Forecast:
    """What is to be expected of `recipe` on these machines, and what would change it.

    Args:
        machines: at least one.
        recipe: of the run.
        shapes: of the model's trained parameters.
    """
    now = predict(machines, recipe, shapes)
    others = [
        predict([machine.behind(link) for machine in machines], recipe, shapes)
        for link in LINKS_GBIT
        if any(machine.link_gbit != link for machine in machines)
    ]
    all_ways = recipe.model_copy(update={"sync": AutoSyncSpec(auto=SYNC_NAMES)})
    ways_s = predict(machines, all_ways, shapes).ways_s
    what, then_s = bottleneck(now, machines, recipe, shapes)
    return Forecast(
        machines=tuple(machines),
        now=now,
        other_links=tuple(others),
        other_ways_s={way: seconds for way, seconds in ways_s.items() if way not in now.ways_s},
        enough_items=enough_items(machines, recipe, shapes) if now.left_out else recipe.batch.items,
        bottleneck=what,
        without_bottleneck_s=then_s,
    )


def machines_of(
    inventory: Inventory,
    recipe: Recipe,
    item_flop: float,
    measured: Mapping[str, Speed],
    links_gbit: Mapping[str, float] | None = None,
    processors: Mapping[str, str] | None = None,
) -> tuple[list[Machine], list[str]]:
    """The devices that the recipe would compute on, and a line for each of which nothing is known.

    Who takes part is what the run's own placement says of these PCs (`jobs.execution.placement`); a recipe with a fixed
    number of workers is taken to get the fastest.

    Args:
        inventory: the PCs.
        recipe: whose `nodes` and `workers` choose among them.
        item_flop: arithmetic of an item, forward and backward.
        measured: device → its speed at this recipe, as runs have kept it here.
        links_gbit: node → rate of its link, where it is known; 1 for the others.
        processors: node → name of its processor, where it is known; a run without cards computes on these.

    Raises:
        UserError: these PCs cannot hold the run.
    """
    placed = place_run(recipe, [offer(spec) for spec in inventory.nodes])
    if isinstance(placed, Missing):
        raise UserError(f"these PCs cannot hold the run: {placed.why}")
    found, unknown = [], []
    for node in inventory.nodes:
        if placed.names and node.name not in placed.names:
            continue
        if not placed.use_gpu or not node.gpus:
            processor = (processors or {}).get(node.name)
            if processor is None:
                unknown.append(f"{node.name}: it computes without a card, and its processor is not known on this PC")
            elif processor not in measured:
                unknown.append(
                    f"{node.name}: no speed of its {processor} is known; run the recipe there for some steps"
                )
            else:
                found.append(Machine(node.name, processor, measured[processor], "measured"))
            continue
        for number, gpu in enumerate(node.gpus):
            name = node.name if len(node.gpus) == 1 else f"{node.name}/{number}"
            model = gpu.model.removeprefix("NVIDIA ").removeprefix("GeForce ")
            known = next((s for device, s in measured.items() if device.endswith(f" {model}")), None)
            if known is not None:
                found.append(Machine(name, model, known, "measured", gpu.power_cap_w))
            elif model in TFLOPS:
                item_s = item_flop / (UTILISATION * TFLOPS[model] * 1e12)
                basis = f"assumed: {UTILISATION:.0%} of {TFLOPS[model]:g} TFLOPS"
                speed = Speed(0, item_s, recipe.batch.micro_batch)
                found.append(Machine(name, model, speed, basis, gpu.power_cap_w))
            else:
                unknown.append(f"{name}: no rate of a {gpu.model} is known; run the recipe there for some steps")
    rates = links_gbit or {}
    of_node = [(machine, machine.name.partition("/")[0]) for machine in found]
    found = [machine.behind(rates[node]) if node in rates else machine for machine, node in of_node]
    if recipe.nodes is None:
        found = sorted(found, key=lambda machine: machine.speed.item_s)[: recipe.workers.count]
    return found, unknown


def predict(machines: Sequence[Machine], recipe: Recipe, shapes: Shapes) -> Prediction:
    """The recipe on these machines.

    Args:
        machines: at least one.
        recipe: its batch, steps, `sync` and `nodes`.
        shapes: of the model's trained parameters.
    """
    speeds = [machine.speed for machine in machines]
    links = _links(machines)
    items = recipe.batch.items
    ways = {way: exchange_of(way, recipe, shapes) for way in recipe.sync_choices}
    pcs = [machine.name.partition("/")[0] for machine in machines]
    least = recipe.nodes.min if recipe.nodes is not None and recipe.nodes.leave_out else len(set(pcs))
    kept = {way: worth_keeping(speeds, items, exchange, links, least, pcs) for way, exchange in ways.items()}
    sync = choose_sync({way: kept[way].step_s for way in ways})
    workers = kept[sync].workers
    taken = [machines[worker] for worker in workers]
    exchange_s = ring_s(ways[sync].sent_bytes, _links(taken))
    hours = kept[sync].step_s * recipe.steps / 3600
    power_w = [machine.power_w for machine in taken]
    return Prediction(
        link_gbit=min(machine.link_gbit for machine in machines),
        sync=sync,
        machines=tuple(machine.name for machine in taken),
        shares=cut_shares([machine.speed for machine in taken], items),
        left_out=tuple(machine.name for number, machine in enumerate(machines) if number not in workers),
        step_s=kept[sync].step_s,
        all_step_s=kept[sync].all_s,
        exchange_s=exchange_s,
        sent_bytes=round((1 - ways[sync].whole) * exchange_s * min(_links(taken)) / ways[sync].every_steps),
        ways_s={way: found.step_s for way, found in kept.items()},
        hours=hours,
        kwh=None if None in power_w else sum(w for w in power_w if w is not None) * hours / 1000,
    )


@dataclass(frozen=True)
class PhaseForecast:
    """What a phase of a run costs."""

    first_step: int
    steps: int
    crop_frames: int
    parameters: int
    """That it trains."""
    step_s: float
    hours: float


def forecast_phase(phase: Phase, until_step: int, machines: Sequence[Machine], shapes: Shapes) -> PhaseForecast:
    """A phase on these machines.

    Args:
        phase: of the run.
        until_step: where it ends.
        machines: with their speeds at this phase's items.
        shapes: of the parameters that it trains.
    """
    step_s, steps = predict(machines, phase.recipe, shapes).step_s, until_step - phase.first_step
    parameters = sum(math.prod(shape) for shape in shapes)
    crop_frames = phase.recipe.batch.crop_frames
    return PhaseForecast(phase.first_step, steps, crop_frames, parameters, step_s, step_s * steps / 3600)


def enough_items(machines: Sequence[Machine], recipe: Recipe, shapes: Shapes) -> int | None:
    """The least power of two of `batch.items` at which all of these machines are worth having; None below 2^20."""
    for power in range(1, 21):
        items = 1 << power
        if items < len(machines):
            continue
        larger = recipe.model_copy(update={"batch": recipe.batch.model_copy(update={"items": items})})
        if not predict(machines, larger, shapes).left_out:
            return items
    return None


def bottleneck(
    prediction: Prediction, machines: Sequence[Machine], recipe: Recipe, shapes: Shapes
) -> tuple[str, float]:
    """What would shorten a step most if it were twice as fast, and the step's seconds then.

    Args:
        prediction: of the run.
        machines: all of them.
        recipe: of the run.
        shapes: of the model's trained parameters.
    """
    exchange = exchange_of(prediction.sync, recipe, shapes)
    taken = [machine for machine in machines if machine.name in prediction.machines]

    def with_s(machines: Sequence[Machine]) -> float:
        return step_s([machine.speed for machine in machines], recipe.batch.items, exchange, _links(machines))

    better = {"the network": with_s([machine.behind(2 * machine.link_gbit) for machine in taken])}
    for number, machine in enumerate(taken):
        quicker = replace(machine, speed=machine.speed.slower(0.5))
        better[machine.name] = with_s([*taken[:number], quicker, *taken[number + 1 :]])
    what = min(better, key=better.__getitem__)
    return what, better[what]


def _links(machines: Sequence[Machine]) -> list[float]:
    """Bytes a second of each."""
    return [OF_THE_LINE * machine.link_gbit * 1e9 / 8 for machine in machines]
