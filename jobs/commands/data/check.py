"""`vr data check`: what a trained model hears in stems that are said to hold one kind alone."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.data.options import Data
from jobs.commands.progress import step_bar
from jobs.commands.terminal import Device, Json, say, show_table


def check(
    data: Data,
    model: Annotated[Path, typer.Option("--model", "-m", help="A run folder, a checkpoint or a weights file.")],
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Find stems that sound to a model like the other kind.

    A trained model listens for instruments in vocals and for voices in instrumentals. Stems of which it takes more than
    8 % for the other kind are listed: swapped, mislabelled or leaking ones.

    Example: vr data check data -m runs/songs-finetune-1a2b3c4d-1
    """
    from rich.table import Table

    from dataprep.inspecting.model_checks import SUSPICIOUS, listen, require_hearable
    from jobs.scoring.separate import pick_device
    from jobs.scoring.separator import load_separator
    from jobs.training.storage import open_data

    chosen = pick_device(device)
    separator, meta = load_separator(model, chosen, partial(say, err=True))
    opened = open_data(data)
    require_hearable(opened, separator, meta.stft)
    with step_bar("listening", len(opened.manifest.songs)) as listened:
        scores = list(listen(opened, separator, meta.crop_frames, chosen, listened))
    scores.sort(key=lambda score: -score.foreign)
    suspicious = [score for score in scores if score.is_suspicious]
    if as_json:
        rows = [score._asdict() | {"suspicious": score.is_suspicious} for score in scores]
        typer.echo(json.dumps({"data": str(data), "line": SUSPICIOUS, "stems": rows}))
        return
    if suspicious:
        table = Table("song", "stem", "taken for the other", box=None)
        for score in suspicious:
            table.add_row(score.song, score.role, f"{100 * score.foreign:.0f} %")
        show_table(table)
    typer.echo(f"{data}: {len(scores)} stems, {len(suspicious)} suspicious")
