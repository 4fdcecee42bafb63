"""`vr data stage`: copies of a data set's shards on this PC's own disk."""

import json
from pathlib import Path
from typing import Annotated

import typer


def stage(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data set, such as one on a NAS.")],
    cache: Annotated[Path, typer.Option(help="Folder on a disk of this PC.")],
    quota: Annotated[str, typer.Option(help="Most that all copies in it may take, such as 200GB.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")] = False,
) -> None:
    """Copy shards to this PC's own disk, each compared with the manifest; again it goes on where it stopped.

    What was not used for the longest time makes room. What does not fit stays where it is and is read from there.

    Example: vr data stage /mnt/nas/data --cache ~/vr-cache --quota 200GB
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from dataprep.cache import ShardCache, parse_bytes
    from dataprep.dataset import Dataset

    opened = Dataset.open(data, ShardCache(cache, parse_bytes(quota)))
    rows = opened.manifest.shards
    console = Console(stderr=True)
    columns = (TextColumn("stage"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=sum(row.bytes for row in rows.values()))
            done = opened.stage(lambda count: bar.advance(task, count))
    except KeyboardInterrupt:
        typer.echo("stopped; what is copied is kept: run the same command again to go on", err=True)
        raise
    left_bytes = sum(rows[name].bytes for name in done.no_room)
    if as_json:
        lists = {"copied": done.copied, "there": done.there, "no_room": done.no_room}
        typer.echo(json.dumps({"data": str(data), "cache": str(cache), "no_room_bytes": left_bytes} | lists))
        return
    typer.echo(f"{cache}: {len(done.copied)} shards copied, {len(done.there)} were there already")
    if done.no_room:
        typer.echo(
            f"{len(done.no_room)} of {len(rows)} shards ({left_bytes / 1e9:.1f} GB) do not fit into {quota}; "
            f"they are read from {data}; give a larger --quota",
            err=True,
        )
