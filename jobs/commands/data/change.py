"""`vr data verify`, `add`, `remove` and `prune`: a data set that exists, looked through or changed."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.commands.data.given import agree_to_read
from jobs.commands.data.options import Cluster, Data, DryRun, KeepSuspicious, Layout, Sources, Split, Workers
from jobs.commands.data.planned import planned
from jobs.commands.data.report import dry_run_shown, left_alone_shown, prepare_shown
from jobs.commands.progress import audio_bar, byte_bar, in_bar
from jobs.commands.terminal import Json, Yes, agree, say
from vr_core.errors import command

if TYPE_CHECKING:
    from dataprep.preparing.change import DamagedShard
    from dataprep.preparing.records import DamagedRecord
    from dataprep.shards.manifest import Manifest


def verify(
    data: Data,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Prepare damaged songs again from their files; without it they are named."),
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Compare every byte of a data set with its manifest.

    Damaged songs are named, with the seconds that are hit.

    Example: vr data verify data --repair
    """
    from dataprep.errors import ShardError
    from dataprep.preparing.change import repair as repair_shards
    from dataprep.shards.manifest import read_manifest
    from jobs.training.storage import roots_here

    records, plain_files = _records(data, repair, yes)
    manifest = read_manifest(data)
    damaged = _examined(data, manifest)
    found: dict[str, Any] = {
        "records": [{"file": str(record.path), "reason": record.reason} for record in records],
        "without_digest": sorted(map(str, plain_files)),
        "shards": len(manifest.shards),
        "damaged": [
            {"shard": shard.name, "reason": shard.reason, "songs": list(shard.songs),
             "frames": [hit._asdict() for hit in shard.frames]} for shard in damaged
        ],
    }  # fmt: skip
    for shard in damaged:
        say(f"{shard.reason} (songs: {', '.join(shard.songs) or 'none'})", err=True)
        for line in _places(shard, manifest):
            say(f"  {line}", err=True)
    failed: tuple[tuple[str, str], ...] = ()
    if damaged and repair:
        hurt = {song for shard in damaged for song in shard.songs}
        songs = [song for song in manifest.songs if song.id in hurt]
        agree_to_read((source.path for song in songs for heard in song.sources.values() for source in heard), yes)
        with audio_bar() as report:
            done = repair_shards(data, damaged, in_bar(report), roots_here(data), songs)
        failed = done.failed
        digest = done.manifest.digest()
        found |= {
            "repaired": list(done.prepared), "not_repaired": [list(song) for song in failed],
            "new_content": list(done.new_content), "digest": digest,
        }  # fmt: skip
        for song, why in failed:
            say(f"not repaired: {song}: {why}", err=True)
        _show_new_version(done.new_content, manifest.digest(), digest)
    if as_json:
        typer.echo(json.dumps(found))
    if (damaged or records) and not repair:
        what = f"{len(damaged)} of {len(manifest.shards)} shards" if damaged else f"{len(records)} records"
        raise ShardError(f"{data}: {what} are damaged; mend: {command('data verify', data, '--repair')}")
    if records:
        raise ShardError(f"{data}: {len(records)} records cannot be mended; copy them again, see the lines above")
    if failed:
        raise ShardError(
            f"{data}: {len(failed)} songs could not be repaired; put their files back and run this again, or "
            f"`{command('data add', data, 'SRC')}` where nothing of a song is left"
        )
    if not as_json:
        whole = f"{len(manifest.shards)} shards are as they were written"
        typer.echo(f"{data}: {f'{len(done.prepared)} songs repaired' if damaged else whole}")


def add(
    data: Data,
    sources: Sources,
    layout: Layout = "auto",
    split: Split = None,
    keep_suspicious: KeepSuspicious = False,
    workers: Workers = 0,
    cluster: Cluster = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Add more music to a data set.

    It is prepared as the other songs were, and nothing of them is written again. A song whose id is taken by another
    one gets -2, -3 and so on. Runs that are under way go on with the songs they began with.

    Example: vr data add data ~/Music/new-album
    """
    from dataprep.preparing.change import settings_of
    from dataprep.shards.manifest import read_manifest

    manifest = read_manifest(data)
    update = {"workers": workers, "keep_suspicious": keep_suspicious}
    settings = settings_of(manifest).model_copy(update=update)
    before = planned(sources, layout, split, data, settings, manifest, read_headers=dry_run)
    if dry_run:
        dry_run_shown(before, as_json)
    else:
        prepare_shown(before, settings, as_json, cluster)


def remove(
    data: Data,
    songs: Annotated[list[str], typer.Argument(metavar="SONG", help="Ids of songs, or patterns such as 'demo-*'.")],
    as_json: Json = False,
) -> None:
    """Take songs out of a data set.

    Their files stay, and runs that are under way go on with them.

    Example: vr data remove data song014 'demo-*'
    """
    from dataprep.preparing.change import remove as remove_songs
    from dataprep.shards.manifest import read_manifest

    before = read_manifest(data)
    gone = remove_songs(data, songs)
    left = read_manifest(data)
    for split in sorted({song.split for song in before.songs} - {song.split for song in left.songs}):
        say(f"no song is left for {split}; add some with `{command('data add', data, 'SRC')}`", err=True)
    if as_json:
        typer.echo(json.dumps({"removed": list(gone), "songs": len(left.songs), "digest": left.digest()}))
    else:
        typer.echo(f"{data}: {', '.join(gone)} removed, {len(left.songs)} songs left")
        typer.echo(f"`{command('data prune', data)}` gives the room back once no run needs them")


def prune(data: Data, as_json: Json = False) -> None:
    """Delete earlier versions of a data set.

    They are kept for runs that began before it was changed, which can then no longer be resumed.

    Example: vr data prune data
    """
    from dataprep.preparing.change import prune as prune_versions

    done = prune_versions(data)
    if as_json:
        typer.echo(json.dumps(done._asdict()))
    else:
        typer.echo(f"{data}: {done.versions} earlier versions dropped, {done.bytes / 1e6:,.1f} MB given back")
        if done.versions and not done.bytes:
            typer.echo("all shards are still needed: a removed song shares its shard with songs that stay")
    left_alone_shown(data, done.left_alone)


def _records(data: Path, repair: bool, yes: bool) -> "tuple[list[DamagedRecord], list[Path]]":
    """Look through the files besides the shards, and with `repair` mend them; what is left, and what has no digest.

    Raises:
        ShardError: the manifest is damaged, and it is not to be repaired.
        ManifestError: it cannot be restored.
    """
    from dataprep.errors import ShardError
    from dataprep.preparing.records import examine_records, mend_records, restore_manifest
    from dataprep.shards.manifest import FILE

    records, plain_files = examine_records(data)
    for record in records:
        say(record.reason, err=True)
    if plain_files:
        names = ", ".join(sorted(str(path.relative_to(data)) for path in plain_files)[:3])
        say(
            f"{len(plain_files)} files carry no digest of themselves, such as {names}: an earlier version wrote them, "
            "and a changed byte in them may be seen by nobody",
            err=True,
        )
    others = [record for record in records if record.path.name != FILE]
    if len(others) < len(records):
        if not repair:
            raise ShardError(f"{data}: its manifest is damaged; restore it: {command('data verify', data, '--repair')}")
        restored = restore_manifest(data, partial(_accept_second, data, yes))
        say(
            f"{data / FILE}: restored from its second copy, of {len(restored.songs)} songs and version "
            f"{restored.digest()}",
            err=True,
        )
    if repair and (records or plain_files):
        return mend_records(data, others), plain_files
    return records, plain_files


def _accept_second(data: Path, yes: bool, second: "Manifest", is_older: bool) -> None:
    """Ask before an earlier version of a data set takes the place of the one that is damaged."""
    if is_older:
        say(
            f"the second copy is of an earlier version, {second.digest()}: what was changed since would be lost",
            err=True,
        )
        agree(f"Take {data} back to it, with {len(second.songs)} songs?", yes)


def _show_new_version(songs: Sequence[str], before: str, now: str) -> None:
    """Say which songs are not what they were before they were damaged, and what that means for runs."""
    for song in songs:
        say(f"repaired with other samples than before: {song}", err=True)
    if songs:
        typer.echo(
            f"files, decoder or resampler changed, so the data set is a new version: {now}. Runs that began with "
            f"version {before} still read that one, with its damage; `vr submit --again` trains on the new one",
            err=True,
        )


def _examined(data: Path, manifest: "Manifest") -> "list[DamagedShard]":
    from dataprep.preparing.change import examine
    from jobs.training.storage import roots_here

    with byte_bar("verify", sum(row.bytes for row in manifest.shards.values())) as advance:
        return examine(data, manifest, lambda name: advance(manifest.shards[name].bytes), roots_here(data))


def _places(shard: "DamagedShard", manifest: "Manifest") -> list[str]:
    frame_s = manifest.stft.hop / manifest.stft.sample_rate_hz
    return [
        f"{hit.song} {hit.role}: {hit.start_frame * frame_s:.1f} to {(hit.start_frame + hit.frames) * frame_s:.1f} s"
        for hit in shard.frames
    ]
