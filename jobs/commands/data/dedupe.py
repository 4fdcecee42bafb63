"""`vr data dedupe`: the same recording under two names."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.data.options import Data
from jobs.commands.progress import step_bar
from jobs.commands.terminal import Json, results, show_table
from vr_core.errors import command

if TYPE_CHECKING:
    from dataprep.fingerprints.fingerprint import Pair
    from dataprep.shards.manifest import Manifest


def dedupe(
    data: Data,
    allow_crossing: Annotated[
        bool,
        typer.Option("--allow-crossing", help="Accept copies in different splits; without it they are an error."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Find songs that hold the same recording.

    Copies are found under other names, encoded anew, louder, or cut at the ends. A copy of a training song among those
    for validation or test makes every score a lie: it is an error unless allowed.

    Example: vr data dedupe data
    """
    from dataprep.errors import DataError
    from dataprep.fingerprints.fingerprint import crossing, pairs
    from dataprep.fingerprints.store import fingerprints
    from jobs.training.storage import open_data

    opened = open_data(data)
    with step_bar("listening", len(opened.manifest.songs)) as listened:
        prints = list(fingerprints(opened, listened))
    found = pairs(prints, opened.stft.hop / opened.stft.sample_rate_hz)
    across = crossing(found, opened.manifest)
    if as_json:
        rows = [pair._asdict() | {"crosses_splits": pair in across} for pair in found]
        typer.echo(json.dumps({"songs": len(opened.manifest.songs), "pairs": rows}))
    else:
        _show(found, across, opened.manifest)
    if across and not allow_crossing:
        pair = across[0]
        raise DataError(
            f"{data}: {len(across)} copies cross splits, such as {pair.song} and {pair.other}; "
            f"`{command('data remove', data, pair.other)}`, or list both in one split (--split FILE)"
        )


def _show(found: "list[Pair]", across: "list[Pair]", manifest: "Manifest") -> None:
    from rich.table import Table

    console = results()
    if found:
        splits = {song.id: song.split for song in manifest.songs}
        table = Table("song", "split", "is also", "split", "stems", "shifted", "in common", "bits equal", box=None)
        for pair in found:
            stems = pair.role if pair.role == pair.other_role else f"{pair.role}, {pair.other_role}"
            table.add_row(
                pair.song, splits[pair.song], pair.other, splits[pair.other], stems, f"{pair.offset_s:+.2f} s",
                f"{pair.overlap_s:.0f} s", f"{100 * (1 - pair.wrong_bits):.0f} %",
            )  # fmt: skip
        show_table(table)
    console.print(f"{len(manifest.songs)} songs, {len(found)} pairs of copies, {len(across)} across splits")
