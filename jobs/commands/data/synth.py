"""`vr data synth`: invented songs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.data.report import bar
from jobs.commands.terminal import Json


def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the songs.")],
    songs: Annotated[int, typer.Option(help="How many songs.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of each.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Another seed, other songs.")] = 0,
    as_json: Json = False,
) -> None:
    """Make songs up: a sung-like voice over drums, bass and chords, with both stems, the same at every call.

    Example: vr data synth songs --songs 12 --seconds 30
    """
    from dataprep.synth.songs import write_songs

    written: list[str] = []
    with bar() as report:
        for song in write_songs(folder, songs, seconds, seed):
            written.append(str(song))
            report(song.name, len(written), songs, len(written) * seconds, songs * seconds)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "songs": written}))
    else:
        typer.echo(f"{len(written)} songs in {folder}; next: vr data prepare {folder} --out data")
