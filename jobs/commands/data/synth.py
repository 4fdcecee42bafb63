"""`vr data synth`: invented songs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.progress import audio_bar
from jobs.commands.terminal import Json
from vr_core.errors import command


def synth(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the songs.")],
    songs: Annotated[int, typer.Option(help="Number of songs, 1 to 9999.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of each song in seconds, 1 to 3600.")] = 20.0,
    seed: Annotated[int, typer.Option(help="Seed, 0 or more: another one gives other songs.")] = 0,
    as_json: Json = False,
) -> None:
    """Make songs up, each with both stems.

    They have a sung-like voice over drums, bass and chords. The same call makes the same songs.

    Example: vr data synth songs --songs 12 --seconds 30
    """
    from dataprep.synth.songs import write_songs

    written: list[str] = []
    with audio_bar() as report:
        for song in write_songs(folder, songs, seconds, seed):
            written.append(str(song))
            report(song.name, len(written), songs, len(written) * seconds, songs * seconds)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "songs": written}))
    else:
        typer.echo(f"{len(written)} songs in {folder}; next: {command('data prepare', folder, '--out', 'data')}")
