"""`vr data`: invented songs, music into a data set, and what is in one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.data_change import add, prune, remove, verify
from jobs.commands.data_check import check
from jobs.commands.data_dedupe import dedupe
from jobs.commands.data_options import SPLIT, Cluster, Data, Json, Layout, Sources, Split, Workers
from jobs.commands.data_report import bar, group_line, prepare_shown
from jobs.commands.data_stage import stage

if TYPE_CHECKING:
    from dataprep.shards.manifest import Manifest

app = typer.Typer(help="Make songs up, turn music into a data set, look into one.", no_args_is_help=True)


@app.command()
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


@app.command()
def prepare(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="Folder of the data set; running again goes on where it stopped.")],
    layout: Layout = "auto",
    split: Split = SPLIT,
    codec: Annotated[str, typer.Option(help="polar8 (compact) or complex16 (twice the size).")] = "polar8",
    n_fft: Annotated[int, typer.Option(help="Samples of a spectrum.")] = 2048,
    hop: Annotated[int, typer.Option(help="Samples between spectra.")] = 1024,
    mixture: Annotated[
        bool, typer.Option("--mixture/--no-mixture", help="Also store each mixture's magnitude, for pretraining.")
    ] = True,
    align: Annotated[
        bool, typer.Option("--align", help="Move stems that lie up to 0.1 s before or after their mixture.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with an error if any song could not be used.")] = False,
    workers: Workers = 0,
    cluster: Cluster = False,
    as_json: Json = False,
) -> None:
    """Turn music into a data set of spectrograms that training reads.

    Songs that cannot be used are listed at the end and the others are done. Ctrl-C loses no finished song.

    Example: vr data prepare ~/Music/stems --out data/songs --split valid=0.1,test=0.1,seed=7
    """
    from dataprep.preparing.prepare import PrepareSettings
    from vr_core.config import validate

    wanted = {
        "stft": {"n_fft": n_fft, "hop": hop}, "codec": codec, "mixture": mixture, "workers": workers,
        "align": align,
    }  # fmt: skip
    settings = validate(PrepareSettings, wanted, "command line")
    refused = prepare_shown(sources, layout, split, out, settings, as_json, cluster)
    if strict and refused:
        from jobs.errors import SongsFailed

        raise SongsFailed(f"{refused} songs or files were not used, and --strict asks for all; see the lines above")


@app.command()
def inspect(
    data: Data,
    picture: Annotated[Path | None, typer.Option(help="Also write a PNG: spectrograms of one song's stems.")] = None,
    song: Annotated[str | None, typer.Option(help="Whose picture; the first one by default.")] = None,
    as_json: Json = False,
) -> None:
    """Show what is in a data set: songs, hours, roles, splits, levels, bytes; and what a song looks like.

    Example: vr data inspect data/songs --picture song014.png --song song014
    """
    from dataprep.inspecting import inspect as facts
    from jobs.storage import open_data

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
    from rich.console import Console
    from rich.table import Table

    from dataprep.inspecting.inspect import song_summaries, split_totals, total

    songs = song_summaries(manifest)
    console = Console()
    table = Table("song", "split", "length", *(f"{role} (dB)" for role in total(songs).roles), "MB", "notes", box=None)
    for song in songs:
        levels = [f"{song.loudness_db[r]:.1f}" if r in song.loudness_db else "–" for r in total(songs).roles]
        table.add_row(
            song.id, song.split, _duration(song.seconds), *levels, f"{song.bytes / 1e6:.1f}", "; ".join(song.notes)
        )
    console.print(table)
    for name, group in {**split_totals(songs), "all": total(songs)}.items():
        console.print(f"{name:>6}: {group_line(group)}", highlight=False)
    stft = manifest.stft
    console.print(
        f"{data}: {manifest.codec}, {stft.sample_rate_hz} Hz, n_fft {stft.n_fft}, hop {stft.hop}, "
        f"{len(manifest.shards)} shards, digest {manifest.digest()}", highlight=False,
    )  # fmt: skip


def _duration(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"


for command in (add, remove, verify, dedupe, check, stage, prune):
    app.command()(command)
