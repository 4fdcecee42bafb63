"""`vr eval`: scores of a checkpoint on songs with known stems."""

from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.commands.terminal import Device, Json, say, show_table


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="A run's name or folder, a checkpoint folder or weights.safetensors."
        ),
    ],
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data set, or a folder of songs with stems.")],
    split: Annotated[
        str, typer.Option(help="Which songs of a data set: train, valid or test; of a folder, all.")
    ] = "test",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the separated files.",
            show_default="eval/step-N in the run's folder, else beside the weights",
        ),
    ] = None,
    device: Device = "auto",
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before reading music that was never given to vr on this PC.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Score a checkpoint on songs with known stems.

    It separates the songs into files and scores these against the original stems, over whole songs, in dB. SDR is
    global: both channels summed, no windows. "Do nothing" is the SDR of the mixture itself as instrumental.

    A data set names the music that it was made from. Files that were never given to `vr data` on this PC are listed
    first, and read only if you agree.

    Example: vr eval runs/songs-finetune-1a2b3c4d-1 DATA --split test
    """
    import json
    from functools import partial

    from jobs.commands.data.given import agree_to_read
    from jobs.commands.progress import song_progress
    from jobs.errors import SongsFailed
    from jobs.scoring.evaluate import evaluate as run

    result = run(checkpoint, data, split, out, device, song_progress, partial(agree_to_read, yes=yes, given=[data]))
    if result.note:
        say(result.note, err=True)
    for line in result.left_out:
        say(line, err=True)
    if result.stems_not_scored:
        say(f"not scored, since only instrumental and vocals are known: {', '.join(result.stems_not_scored)}", err=True)
    if result.trained_on:
        say(f"trained on, so that their scores say nothing of new songs: {', '.join(result.trained_on)}", err=True)
    if as_json:
        typer.echo(json.dumps(result.plain()))
    else:
        _print_table(result.plain())
        typer.echo(f"files and eval.json: {result.folder}")
    for song, why in result.problems:
        say(f"not scored: {song}: {why}", err=True)
    if result.problems:
        count = f"{len(result.problems)} of {len(result.problems) + len(result.songs)}"
        raise SongsFailed(f"{count} songs were not scored; see the lines above")


def _print_table(scores: dict[str, Any]) -> None:
    from rich.table import Table

    from jobs.scoring.evaluate import SCORES

    table = Table("song", *(name.removesuffix("_db").replace("_", " ") + " (dB)" for name in SCORES))
    for row in [*scores["songs"], {"id": "mean", **scores["mean"]}]:
        table.add_row(row["id"], *("–" if row[name] is None else f"{row[name]:.2f}" for name in SCORES))
    show_table(table)
