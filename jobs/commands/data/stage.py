"""`vr data stage`: copies of a data set's shards on this PC's own disk."""

import json
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.progress import byte_bar
from jobs.commands.terminal import Json


def stage(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data set, such as one on a NAS.")],
    cache: Annotated[
        Path | None, typer.Option(help="Folder on a disk of this PC.", show_default="the inventory's")
    ] = None,
    quota: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most that all copies in it may take, such as 200GB or 1.5TB.",
            show_default="the inventory's",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Copy a data set's shards to this PC's own disk.

    Each copy is compared with the manifest. Typed again, it goes on where it stopped. The copies that were not used for
    the longest time make room. What does not fit is read from where it is.

    Example: vr data stage /mnt/nas/data --cache ~/vr-cache --quota 200GB
    """
    from dataprep.shards.cache import parse_bytes
    from jobs.recipe import RecipeCacheSpec
    from jobs.training.storage import cache_here, open_data
    from vr_core.errors import UserError

    given = cache_here()
    folder = cache or (given.path if given else None)
    quota_gb = parse_bytes(quota) / 1e9 if quota else given.quota_gb if given else None
    if folder is None or quota_gb is None:
        raise UserError(
            "no cache is known for this PC; give --cache DIR --quota 200GB, or put `cache` into the inventory and "
            "start the cluster with it"
        )
    opened = open_data(data, RecipeCacheSpec(path=folder, quota_gb=quota_gb))
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
        typer.echo(json.dumps({"data": str(data), "cache": str(folder), "no_room_bytes": left_bytes} | lists))
        return
    typer.echo(f"{folder}: {len(done.copied)} shards copied, {len(done.there)} were there already")
    if done.no_room:
        typer.echo(
            f"{len(done.no_room)} of {len(rows)} shards ({left_bytes / 1e9:.1f} GB) do not fit into {quota_gb:g} GB; "
            f"they are read from {data}; give a larger --quota",
            err=True,
        )
