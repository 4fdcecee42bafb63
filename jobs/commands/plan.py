"""`vr plan`: what a recipe will cost on the PCs of an inventory."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.commands.jobs.options import Overrides, RecipeName
from jobs.commands.terminal import Json, results, show_table
from vr_core.errors import command

if TYPE_CHECKING:
    from jobs.planning.forecast import Forecast


def plan(
    recipe: RecipeName,
    inventory: Annotated[Path, typer.Option("-i", "--inventory", help="YAML file that describes the PCs.")],
    overrides: Overrides = None,
    link_gbit: Annotated[
        float | None,
        typer.Option(
            "--link",
            min=0.001,
            help="Rate of every link, in Gbit/s.",
            show_default="as `vr cluster doctor` measured it, else 1",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict a run's speed and duration before it runs.

    It says how many steps a second and how many hours, how many bytes travel, which PCs take part and what would help
    most. It uses the speeds and links that were measured here, and names what it assumes in their place.

    Example: vr plan home-pretrain -i home.yaml --link 2.5
    """
    from cluster.doctor.links import rates_mbit, read_links
    from cluster.facts import find_interfaces
    from cluster.inventory import Inventory
    from jobs.planning.arithmetic import arithmetic_of
    from jobs.planning.forecast import OF_THE_LINE, forecast_phase, machines_of, outlook
    from jobs.recipes.shipped import read_recipe
    from jobs.steps.phases import phases_of
    from jobs.training.speed.kept import kept_speeds, processor_name
    from vr_core.config import load
    from vr_core.errors import UserError

    spec = read_recipe(recipe, overrides or [])
    phases = phases_of(spec)
    pcs = load(Inventory, inventory)
    links_gbit = {name: mbit / 1000 / OF_THE_LINE for name, mbit in rates_mbit(pcs, read_links()).items()}
    if link_gbit is not None:
        links_gbit = dict.fromkeys([node.name for node in pcs.nodes], link_gbit)
    own = {address for addresses in find_interfaces().values() for address in addresses}
    processors = {node.name: processor_name() for node in pcs.nodes if node.address in own}
    forecasts = []
    ends = [*(phase.first_step for phase in phases[1:]), spec.steps]
    for phase, end in zip(phases, ends, strict=True):
        model = arithmetic_of(phase.recipe)
        speeds = kept_speeds(phase.recipe, model.bins)
        machines, unknown = machines_of(pcs, phase.recipe, model.item_flop, speeds, links_gbit, processors)
        if not machines:
            raise UserError(f"{inventory}: no machine for this recipe ({'; '.join(unknown) or 'none is wanted'})")
        forecasts.append(forecast_phase(phase, end, machines, model.shapes))
    found = outlook(machines, phases[-1].recipe, model.shapes)  # what holds at the end, and mostly for longest
    about = {
        "recipe": spec.name, "parameters": model.parameters, "item_flop": model.item_flop,
        "item_bytes": model.item_bytes, "steps": spec.steps, "items": spec.batch.items, "unknown": unknown,
        "phases": [asdict(forecast) for forecast in forecasts],
    }  # fmt: skip
    if as_json:
        print(json.dumps({**about, **found.plain()}))
    else:
        _show(about, found, inventory)


def _show(about: dict[str, Any], found: "Forecast", inventory: Path) -> None:
    """Two tables, and what is to be said of them in lines that are not broken."""
    from rich.table import Table

    from jobs.planning.forecast import OF_THE_LINE

    console, now = results(), found.now

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False)

    say(
        f"{about['recipe']}: {about['parameters'] / 1e6:.0f} M parameters, {about['steps']} steps of "
        f"{about['items']} items, {about['item_flop'] / 1e9:.0f} GFLOP an item (forward and backward)"
    )
    table = Table("machine", "device", "items/s alone", "its share", "speed is", box=None)
    shares = dict(zip(now.machines, now.shares, strict=True))
    for machine in found.machines:
        share = str(shares.get(machine.name, "left out"))
        table.add_row(machine.name, machine.device, f"{1 / machine.speed.item_s:.1f}", share, machine.basis)
    show_table(table)
    for line in about["unknown"]:
        say(f"not counted: {line}")
    links = Table("link", "sync", "machines", "s a step", "steps/s", "hours", "MB a step", "kWh", box=None)
    for one in sorted([now, *found.other_links], key=lambda p: p.link_gbit):
        links.add_row(
            f"{one.link_gbit:.3g} Gbit/s" + (" <" if one is now else ""), one.sync, ", ".join(one.machines),
            f"{one.step_s:.3f}", f"{1 / one.step_s:.2f}", f"{one.hours:.1f}", f"{one.sent_bytes / 1e6:.0f}",
            "" if one.kwh is None else f"{one.kwh:.1f}",
        )  # fmt: skip
    show_table(links)
    if len(about["phases"]) > 1:
        phases = Table("from step", "steps", "crop frames", "M trained", "s a step", "hours", box=None)
        for row in about["phases"]:
            phases.add_row(
                str(row["first_step"]), str(row["steps"]), str(row["crop_frames"]), f"{row['parameters'] / 1e6:.1f}",
                f"{row['step_s']:.3f}", f"{row['hours']:.2f}",
            )  # fmt: skip
        show_table(phases)
        hours = sum(row["hours"] for row in about["phases"])
        say(f"in all phases {hours:.2f} hours; the tables above are of the last one, as if it were the whole run")
    for ways_s, allowed in ((now.ways_s, "allows"), (found.other_ways_s, "does not list (sync={auto: [...]})")):
        if ways_s:
            reported = ", ".join(f"{way} {seconds:.3f} s" for way, seconds in ways_s.items())
            say(f"a step by each way that the recipe {allowed}: {reported}")
    if now.left_out:
        say(
            f"{', '.join(now.left_out)} left out: with all a step takes {now.all_step_s:.2f} s, "
            f"without {now.step_s:.2f} s"
            + (f"; worth having from batch.items={found.enough_items} on, at this link" if found.enough_items else "")
        )
    say(f"what would help most, twice as fast: {found.bottleneck} ({found.without_bottleneck_s:.3f} s a step)")
    carried = [
        f"{m.name} {OF_THE_LINE * 1000 * m.link_gbit:.0f} Mbit/s{'' if m.link_known else ' (assumed)'}"
        for m in found.machines
    ]
    known = all(machine.link_known for machine in found.machines)
    say(
        f"what links carry: {', '.join(carried)}"
        + ("" if known else f"; {command('cluster doctor', inventory)} measures them")
    )
    say(
        f"reading: {about['items'] * about['item_bytes'] / now.step_s / 1e6:.1f} MB/s of data over all machines. "
        "Assumed: an exchange in a ring, hidden behind the last backward pass (diloco: behind the next steps)"
    )
