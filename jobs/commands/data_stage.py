"""`vr data stage`: copies of a data set's shards on this PC's own disk."""

import json
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.data_options import Json
from jobs.commands.data_report import byte_bar


def stage(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data set, such as one on a NAS.")],
    cache: Annotated[Path, typer.Option(help="Folder on a disk of this PC.")],
    quota: Annotated[str, typer.Option(help="Most that all copies in it may take, such as 200GB.")],
    as_json: Json = False,
) -> None:
    """Copy shards to this PC's own disk, each compared with the manifest; again it goes on where it stopped.

    What was not used for the longest time makes room. What does not fit stays where it is and is read from there.

    Example: vr data stage /mnt/nas/data --cache ~/vr-cache --quota 200GB
    """
    from dataprep.cache import ShardCache, parse_bytes
    from dataprep.dataset import Dataset

    opened = Dataset.open(data, ShardCache(cache, parse_bytes(quota)))
    rows = opened.manifest.shards
    try:
        with byte_bar("stage", sum(row.bytes for row in rows.values())) as advance:
            done = opened.stage(advance)
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
