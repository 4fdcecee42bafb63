"""`vr data`: invented songs, music into a data set, and what is in one."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.commands.data_stage import stage

if TYPE_CHECKING:
    from dataprep.inspect import Total
    from dataprep.manifest import Manifest
    from dataprep.prepare import PrepareReport
    from dataprep.tracks import Tracks

app = typer.Typer(help="Make songs up, turn music into a data set, look into one.", no_args_is_help=True)
app.command()(stage)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
LINE_EVERY_S = 15.0
"""Where stderr is no terminal."""


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
    from dataprep.synth import write_songs

    written: list[str] = []
    with _bar() as report:
        for song in write_songs(folder, songs, seconds, seed):
            written.append(str(song))
            report(song.name, len(written), songs, len(written) * seconds, songs * seconds)
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), "songs": written}))
    else:
        typer.echo(f"{len(written)} songs in {folder}; next: vr data prepare {folder} --out data")


@app.command()
def prepare(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Folders of music, or audio files.")],
    out: Annotated[Path, typer.Option(help="Folder of the data set; running again goes on where it stopped.")],
    layout: Annotated[
        str, typer.Option(help="auto, stems, musdb, pairs, unpaired or flat (dataprep/README.md).")
    ] = "auto",
    split: Annotated[
        str, typer.Option(help="Fractions with a seed, or a file of lines `train|valid|test SONG_OR_PATTERN`.")
    ] = "valid=0.1,test=0.1,seed=0",
    codec: Annotated[str, typer.Option(help="polar8 (compact) or complex16 (twice the size).")] = "polar8",
    n_fft: Annotated[int, typer.Option(help="Samples of a spectrum.")] = 2048,
    hop: Annotated[int, typer.Option(help="Samples between spectra.")] = 1024,
    mixture: Annotated[
        bool, typer.Option("--mixture/--no-mixture", help="Also store each mixture's magnitude, for pretraining.")
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with an error if any song could not be used.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one for each core.")] = 0,
    as_json: Json = False,
) -> None:
    """Turn music into a data set of spectrograms that training reads.

    Songs that cannot be used are listed at the end and the others are done. Ctrl-C loses no finished song.

    Example: vr data prepare ~/Music/stems --out data/songs --split valid=0.1,test=0.1,seed=7
    """
    from dataprep.prepare import PrepareSettings
    from dataprep.prepare import prepare as prepare_tracks
    from dataprep.splits import parse_split
    from dataprep.tracks import find_tracks
    from jobs.errors import SongsFailed
    from vr_core.config import validate

    rule = parse_split(split)
    wanted = {
        "stft": {"n_fft": n_fft, "hop": hop}, "codec": codec, "mixture": mixture, "workers": workers
    }  # fmt: skip
    settings = validate(PrepareSettings, wanted, "command line")
    found = find_tracks(sources, layout)
    try:
        with _bar() as report:
            done = prepare_tracks(
                found.tracks, out, settings, split=rule,
                on_progress=lambda p: report(p.song, p.songs_done, p.songs, p.done_s, p.total_s),
            )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo("stopped; finished songs are kept: run the same command again to go on", err=True)
        raise
    refused = [*((str(path), why) for path, why in found.problems), *done.failed]
    if as_json:
        typer.echo(json.dumps(_as_json(out, found, done)))
    else:
        _show_prepared(out, found, done)
    for name, why in refused:
        typer.echo(f"not used: {name}: {why}", err=True)
    if strict and refused:
        raise SongsFailed(
            f"{len(refused)} songs or files were not used, and --strict asks for all; see the lines above"
        )


@app.command()
def inspect(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data set's folder.")],
    as_json: Json = False,
) -> None:
    """Show what is in a data set: songs, hours, roles, splits, levels, bytes.

    Example: vr data inspect data/songs
    """
    from dataprep import inspect as facts
    from dataprep.manifest import read_manifest

    manifest = read_manifest(data)
    if as_json:
        typer.echo(json.dumps(facts.as_json(manifest)))
    else:
        _show(data, manifest)


@app.command()
def verify(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data set.")],
    as_json: Json = False,
) -> None:
    """Read every byte of a data set and compare it with the manifest; damaged songs are named.

    Example: vr data verify data
    """
    from rich.console import Console
    from rich.progress import track

    from dataprep.errors import ShardError
    from dataprep.inspect import songs_in_shard
    from dataprep.manifest import read_manifest
    from dataprep.shards import verify as verify_shard
    from vr_core.errors import StorageError

    manifest = read_manifest(data)
    damaged: list[dict[str, Any]] = []
    console = Console(stderr=True)
    for name in track(sorted(manifest.shards), "verify", console=console, disable=not console.is_terminal):
        try:
            verify_shard(data / name, manifest.shards[name])
        except (ShardError, StorageError) as error:
            damaged.append({"shard": name, "reason": str(error), "songs": songs_in_shard(manifest, name)})
    if as_json:
        typer.echo(json.dumps({"shards": len(manifest.shards), "damaged": damaged}))
    for entry in damaged:
        typer.echo(f"{entry['reason']} (songs: {', '.join(entry['songs'])})", err=True)
    if damaged:
        raise ShardError(f"{data}: {len(damaged)} of {len(manifest.shards)} shards are damaged")
    if not as_json:
        typer.echo(f"{data}: {len(manifest.shards)} shards are as they were written")


def _show(data: Path, manifest: "Manifest") -> None:
    from rich.console import Console
    from rich.table import Table

    from dataprep.inspect import song_summaries, split_totals, total

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
        console.print(f"{name:>6}: {_group(group)}", highlight=False)
    stft = manifest.stft
    console.print(
        f"{data}: {manifest.codec}, {stft.sample_rate_hz} Hz, n_fft {stft.n_fft}, hop {stft.hop}, "
        f"{len(manifest.shards)} shards, digest {manifest.digest()}", highlight=False,
    )  # fmt: skip


def _as_json(out: Path, found: "Tracks", done: "PrepareReport") -> dict[str, Any]:
    return {
        "data": str(out),
        "layouts": {str(source): layout for source, layout in found.layouts},
        "songs": len(done.manifest.songs),
        "digest": done.manifest.digest(),
        "prepared": list(done.prepared),
        "kept": list(done.kept),
        "refused": [{"song": song, "why": why} for song, why in done.failed],
        "passed_over": [{"path": str(path), "why": why} for path, why in found.problems],
    }


def _show_prepared(out: Path, found: "Tracks", done: "PrepareReport") -> None:
    from dataprep.inspect import song_summaries, split_totals, total

    for source, layout in found.layouts:
        typer.echo(f"{source}: layout {layout}")
    songs = song_summaries(done.manifest)
    for song in songs:
        for note in song.notes:
            typer.echo(f"{song.id}: {note}")
    for name, group in {**split_totals(songs), "all": total(songs)}.items():
        typer.echo(f"{name:>6}: {_group(group)}")
    kept = f", {len(done.kept)} were there already" if done.kept else ""
    typer.echo(f"{len(done.prepared)} songs prepared{kept}; {len(songs)} in {out}")


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int, float, float], None]]:
    """A bar over seconds of audio on stderr; where that is no terminal, a line now and then.

    Yields:
        A function to call with the song at work, songs done, songs in all, seconds of audio done, seconds in all.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    started_s = line_s = time.monotonic()
    with Progress(
        TextColumn("{task.fields[songs]}"), BarColumn(), TextColumn("{task.fields[hours]}"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.description}"),
        console=console, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=None, songs="", hours="", rate="")

        def report(song: str, songs_done: int, songs: int, done_s: float, total_s: float) -> None:
            nonlocal line_s
            now_s = time.monotonic()
            count = f"{songs_done}/{songs} songs"
            hours = f"{done_s / 3600:.2f}/{total_s / 3600:.2f} h of audio"
            rate = f"{done_s / max(now_s - started_s, 1e-3):.0f} × real time"
            bar.update(task, completed=done_s, total=total_s, description=song, songs=count, hours=hours, rate=rate)
            if not console.is_terminal and now_s - line_s > LINE_EVERY_S:
                line_s = now_s
                typer.echo(f"{count}, {hours}, {rate}", err=True)

        yield report


def _group(group: "Total") -> str:
    roles = ", ".join(f"{count} {role}" for role, count in group.roles.items())
    return f"{group.songs} songs, {group.hours:.2f} hours ({roles}), {group.bytes / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"
