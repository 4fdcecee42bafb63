"""`vr plan`: what a recipe will cost on the PCs of an inventory."""

import json
from pathlib import Path
from typing import Annotated

import typer


def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of one that comes with vr.")],
    inventory: Annotated[Path, typer.Option("-i", "--inventory", help="YAML file that describes the PCs.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Replace keys of the recipe.")
    ] = None,
    link_gbit: Annotated[
        float | None,
        typer.Option("--link", min=0.001, help="Gbit/s of all links. [default: as the doctor measured, or 1]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")] = False,
) -> None:
    """Predict a run before anything runs: steps a second, hours, bytes on the wire, who takes part, what would help.

    Example: vr plan home-pretrain -i home.yaml --link 2.5
    """
    from cluster.inventory import Inventory
    from cluster.links import rates_mbit, read_links
    from jobs.arithmetic import arithmetic_of
    from jobs.plan import LINKS_GBIT, OF_THE_LINE, bottleneck, enough_items, machines_of, predict
    from jobs.recipe import Recipe
    from jobs.shipped import recipe_file
    from jobs.speed import kept_speeds
    from vr_core.config import load
    from vr_core.errors import UserError

    spec = load(Recipe, recipe_file(recipe), overrides or [])
    model = arithmetic_of(spec)
    pcs = load(Inventory, inventory)
    links_gbit = {name: mbit / 1000 / OF_THE_LINE for name, mbit in rates_mbit(pcs, read_links()).items()}
    if link_gbit is not None:
        links_gbit = dict.fromkeys([node.name for node in pcs.nodes], link_gbit)
    machines, unknown = machines_of(pcs, spec, model.item_flop, kept_speeds(spec, model.bins), links_gbit)
    if not machines:
        raise UserError(f"{inventory}: no machine for this recipe ({'; '.join(unknown) or 'none is wanted'})")
    measured = [m.name for m in machines if m.name.partition("/")[0] in links_gbit] if link_gbit is None else []
    now = predict(machines, spec, model.shapes)
    others = [
        predict([machine.behind(link) for machine in machines], spec, model.shapes)
        for link in LINKS_GBIT
        if any(machine.link_gbit != link for machine in machines)
    ]
    what, then_s = bottleneck(now, machines, spec, model.shapes)
    enough = enough_items(machines, spec, model.shapes) if now.left_out else spec.batch.items
    if as_json:
        value = {
            "recipe": spec.name, "parameters": model.parameters, "item_flop": model.item_flop,
            "item_bytes": model.item_bytes, "prediction": now.plain(), "other_links": [one.plain() for one in others],
            "all_are_worth_having_from_items": enough,
            "bottleneck": {"what": what, "step_s_if_twice_as_fast": then_s}, "unknown": unknown,
            "machines": [{"name": m.name, "device": m.device, "item_s": m.speed.item_s, "basis": m.basis,
                          "link_gbit": m.link_gbit, "link_measured": m.name in measured}
                         for m in machines],
        }  # fmt: skip
        return print(json.dumps(value))
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"{spec.name}: {model.parameters / 1e6:.0f} M parameters, {spec.steps} steps of {spec.batch.items} items, "
        f"{model.item_flop / 1e9:.0f} GFLOP an item (forward and backward)", soft_wrap=True,
    )  # fmt: skip
    table = Table("machine", "device", "items/s alone", "its share", "speed is", box=None)
    shares = dict(zip(now.machines, now.shares, strict=True))
    for machine in machines:
        share = str(shares.get(machine.name, "left out"))
        table.add_row(machine.name, machine.device, f"{1 / machine.speed.item_s:.1f}", share, machine.basis)
    console.print(table)
    for line in unknown:
        console.print(f"not counted: {line}", soft_wrap=True)
    links = Table("link", "sync", "machines", "s a step", "steps/s", "hours", "MB a step", "kWh", box=None)
    for one in sorted([now, *others], key=lambda p: p.link_gbit):
        links.add_row(
            f"{one.link_gbit:.3g} Gbit/s" + (" <" if one is now else ""), one.sync, ", ".join(one.machines),
            f"{one.step_s:.3f}", f"{1 / one.step_s:.2f}", f"{one.hours:.1f}", f"{one.sent_bytes / 1e6:.0f}",
            "" if one.kwh is None else f"{one.kwh:.1f}",
        )  # fmt: skip
    console.print(links)
    if len(now.ways_s) > 1:
        told = ", ".join(f"{way} {seconds:.3f} s" for way, seconds in now.ways_s.items())
        console.print(f"a step by each way that the recipe allows: {told}", soft_wrap=True)
    if now.left_out:
        console.print(
            f"{', '.join(now.left_out)} left out: with all a step takes {now.all_step_s:.2f} s, "
            f"without {now.step_s:.2f} s"
            + (f"; worth having from batch.items={enough} on, at this link" if enough else ""),
            soft_wrap=True,
        )
    console.print(f"what would help most, twice as fast: {what} ({then_s:.3f} s a step)", soft_wrap=True)
    links_said = ", ".join(f"{m.name} {OF_THE_LINE * 1000 * m.link_gbit:.0f} Mbit/s" for m in machines)
    console.print(
        f"links, {'as vr cluster doctor measured them' if measured else 'assumed'}: {links_said} of payload"
        + ("; measure them with vr cluster doctor" if link_gbit is None and len(measured) < len(machines) else ""),
        soft_wrap=True,
    )
    console.print(
        f"reading: {spec.batch.items * model.item_bytes / now.step_s / 1e6:.1f} MB/s of data over all machines. "
        "Assumed: an exchange in a "
        "ring, hidden behind the last backward pass (diloco: behind the next steps); PowerSGD computes nothing",
        soft_wrap=True,
    )
    return None
