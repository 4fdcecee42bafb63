"""`vr data inspect`: what is in a data set."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.data.options import Data
from jobs.commands.data.report import group_line
from jobs.commands.terminal import Json, results, show_table

if TYPE_CHECKING:
    from dataprep.shards.manifest import Manifest


def inspect(
    data: Data,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Also draw one song's stems as spectrograms, into this PNG.",
            show_default="no picture, or SONG.png with --song",
        ),
    ] = None,
    song: Annotated[
        str | None, typer.Option(help="Id of the song that is drawn.", show_default="the first one, with --picture")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is in a data set.

    It lists songs, hours, roles, splits, levels in dB, megabytes, and how many shards this PC's own disks hold.
    --picture draws a song.

    Example: vr data inspect data --picture song014.png --song song014
    """
    from dataprep.inspecting import inspect as facts
    from jobs.training.storage import open_data

    opened = open_data(data)
    manifest, reach = opened.manifest, opened.reach()
    if picture is not None or song is not None:
        from dataprep.inspecting.picture import draw_song

        chosen = song or manifest.songs[0].id
        path = picture or Path(f"{chosen}.png")
        draw_song(opened, chosen, path)
        typer.echo(f"{path}: a picture of {chosen}", err=True)
    if as_json:
        here = {"local": sorted(reach.local), "remote": sorted(reach.remote), "missing": sorted(reach.missing)}
        typer.echo(json.dumps(facts.as_json(manifest) | {"shards_from_here": here}))
    else:
        _show(data, manifest)
        typer.echo(
            f"from this PC: {len(reach.local)} shards on its own disks, {len(reach.remote)} over the network, "
            f"{len(reach.missing)} missing"
        )
    if reach.missing:
        typer.echo(f"{data}: {opened.roots.gap(manifest.shards, reach.missing)}", err=True)


def _show(data: Path, manifest: "Manifest") -> None:
    from rich.table import Table

    from dataprep.inspecting.inspect import song_summaries, split_totals, total

    songs = song_summaries(manifest)
    console = results()
    table = Table("song", "split", "length", *(f"{role} (dB)" for role in total(songs).roles), "MB", "notes", box=None)
    for song in songs:
        levels = [f"{song.loudness_db[r]:.1f}" if r in song.loudness_db else "–" for r in total(songs).roles]
        table.add_row(
            song.id, song.split, _duration(song.seconds), *levels, f"{song.bytes / 1e6:.1f}", "; ".join(song.notes)
        )
    show_table(table)
    for name, group in {**split_totals(songs), "all": total(songs)}.items():
        console.print(f"{name:>6}: {group_line(group)}", highlight=False)
    stft = manifest.stft
    console.print(
        f"{data}: {manifest.codec}, mixtures {manifest.mixture_codec}, {stft.sample_rate_hz} Hz, "
        f"n_fft {stft.n_fft}, hop {stft.hop}, "
        f"{len(manifest.shards)} shards, digest {manifest.digest()}", highlight=False,
    )  # fmt: skip


def _duration(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"
