"""`vr models`: what can be trained and run, with figures, and which PC has room for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.commands.terminal import Json, say, show_table

if TYPE_CHECKING:
    from cluster.inventory import Inventory
    from vr_core.specs.configurations import Configuration


def models(
    inventory: Annotated[
        Path | None,
        typer.Option(
            "-i", "--inventory", help="YAML file that describes the PCs: which can train what.", show_default="no PCs"
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--table", help="Print a Markdown table, to put into a page.")] = False,
    as_json: Json = False,
) -> None:
    """List models by name and size, and which PC can train them.

    A size gives its parameters, its STFT, and the work of a forward pass for each second of audio. With an
    inventory it says for each PC's largest card whether it has room to train all of it, and how many items at once.
    It counts memory in float32 and items as long as the size is usually trained with.

    The Markdown table also has the memory that an item of a training step takes, beside the model.

    Example: vr models -i home.yaml --table
    """
    from cluster.inventory import Inventory
    from vr_core.config import load
    from vr_core.errors import ConfigError
    from vr_core.specs.configurations import CONFIGURATIONS

    if markdown and as_json:
        raise ConfigError("--table and --json: give one of them")
    pcs = load(Inventory, inventory) if inventory is not None else None
    found = {name: _about(configuration, pcs) for name, configuration in CONFIGURATIONS.items()}
    if as_json:
        print(json.dumps(found))
        return
    _show(found, pcs, markdown=markdown)


def _about(configuration: "Configuration", pcs: "Inventory | None") -> dict[str, Any]:
    """One row, as JSON-ready values."""
    from vr_core.config import plain

    front, stft = configuration.model.front, configuration.stft
    return {
        "about": configuration.about, "model": plain(configuration.model),
        "parameters": configuration.figures.parameters, "head": configuration.head.kind,
        "stems": list(configuration.head.stems), "n_fft": stft.n_fft, "hop": stft.hop,
        "own_stft": front.stft is not None, "hears": "complex" if front.phase else "magnitude",
        "receptive_frames": front.receptive_frames, "least_frames": front.least_frames,
        "context_frames": front.context_frames, "crop_s": round(configuration.crop_s, 3),
        "forward_gflop_per_s": round(configuration.figures.forward_flop_per_s / 1e9, 3),
        "item_bytes": configuration.figures.item_bytes,
        "item_bytes_recomputed": configuration.figures.recomputed_bytes,
        **({} if pcs is None else {"pcs": _on(configuration, pcs)}),
    }  # fmt: skip


def _on(configuration: "Configuration", pcs: "Inventory") -> dict[str, dict[str, Any]]:
    """PC → what its largest card can train; PCs without cards are left out."""
    from dataclasses import asdict

    from jobs.planning.fits import fit

    cards_gib = {pc.name: max(gpu.memory_gib for gpu in pc.gpus) for pc in pcs.nodes if pc.gpus}
    return {name: asdict(fit(configuration.figures, gib * 2**30)) for name, gib in cards_gib.items()}


_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "name": lambda row: str(row["name"]),
    "parameters": lambda row: f"{row['parameters']:,}",
    "STFT": lambda row: f"{row['n_fft']}/{row['hop']}" + ("" if row["own_stft"] else " or data's"),
    "stems": lambda row: str(len(row["stems"])),
    "GFLOP/s of audio": lambda row: _figure(row["forward_gflop_per_s"]),
    "item s": lambda row: f"{row['crop_s']:.1f}",
    "item MB": lambda row: f"{row['item_bytes'] / 1e6:,.0f}",
    "hears": lambda row: str(row["hears"]),
    "head": lambda row: str(row["head"]),
    "about": lambda row: str(row["about"]),
}
_TEXT = ("name", "hears", "head")
_IN_MARKDOWN = ("name", "parameters", "GFLOP/s of audio", "item s", "item MB", "hears", "head")
_AT_THE_TERMINAL = ("name", "parameters", "STFT", "stems", "GFLOP/s of audio")


def _show(found: dict[str, dict[str, Any]], pcs: "Inventory | None", *, markdown: bool) -> None:
    from rich.table import Table

    shown = _IN_MARKDOWN if markdown else (*_AT_THE_TERMINAL, "about" if pcs is None else "item s")
    headings = [*shown, *next(iter(found.values())).get("pcs", {})]
    rows = [
        [
            *(_COLUMNS[column](row | {"name": name}) for column in shown),
            *(_words(fit) for fit in row.get("pcs", {}).values()),
        ]
        for name, row in found.items()
    ]
    if markdown:
        for cells in (headings, ["---" if column in _TEXT else "--:" for column in headings], *rows):
            say(f"| {' | '.join(cells)} |")
    else:
        table = Table(*headings, box=None)
        for cells in rows:
            table.add_row(*cells)
        show_table(table)
    if pcs is not None:
        if markdown:
            say("")
        say(
            "Items at once with all parameters trained; r: with model.recompute=true; LoRA: only with low-rank factors "
            "beside the model (lora={rank: 8})."
        )
        without = [pc.name for pc in pcs.nodes if not pc.gpus]
        if without:
            say(f"Without a card that the inventory names: {', '.join(without)}.")


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2f}"


def _words(fit: dict[str, Any]) -> str:
    if fit["way"] == "no":
        return "no"
    count = f"{fit['micro_batch']}{' r' if fit['recompute'] else ''}"
    return count if fit["way"] == "whole" else f"LoRA {count}"
