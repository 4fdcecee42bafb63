"""What `vr data` shows of a preparation: a bar while it runs, and what came of it."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jobs.commands.data.given import remember
from jobs.commands.progress import audio_bar, in_bar
from jobs.commands.terminal import say

if TYPE_CHECKING:
    from dataprep.audio.tracks import Tracks
    from dataprep.inspecting.inspect import Total
    from dataprep.preparing.prepare import PrepareReport, PrepareSettings
    from dataprep.shards.manifest import Manifest
    from jobs.prepare_on_nodes import Crew


def prepare_shown(
    sources: list[Path],
    layout: str,
    split: str,
    out: Path,
    settings: "PrepareSettings",
    as_json: bool,
    on_cluster: bool = False,
    beside: "Manifest | None" = None,
) -> int:
    """Prepare with a bar, and print what was done; returns how many songs or files were not used.

    `beside` is what a data set holds that more is added to.
    """
    from dataprep.audio.reading_rules import RULES
    from dataprep.audio.tracks import find_tracks
    from dataprep.preparing.change import ids_beside
    from dataprep.preparing.prepare import prepare
    from dataprep.shards.splits import parse_split
    from jobs.training.storage import roots_here

    rule = parse_split(split)
    remember(sources)
    found = find_tracks(sources, layout)
    if beside is not None:
        found = replace(found, tracks=ids_beside(found.tracks, beside))
    try:
        with _crew(out, found, on_cluster) as crew, audio_bar() as report:
            if crew is not None:
                settings = settings.model_copy(update={"workers": settings.workers or crew.workers})
            done = prepare(
                found.tracks, out, settings, in_bar(report), split=rule, roots=roots_here(out),
                run=crew.run if crew else None,
            )  # fmt: skip
    except KeyboardInterrupt:
        say("stopped; finished songs are kept: run the same command again to go on", err=True)
        raise
    refused = [*((str(path), why) for path, why in found.problems), *done.failed]
    if as_json:
        typer.echo(json.dumps(_as_json(out, found, done)))
    else:
        _show(out, found, done)
    for name, why in refused:
        say(f"not used: {name}: {why}", err=True)
    for name, rules in done.read_otherwise:
        say(f"prepared again: {name}: {'; '.join(RULES[rule].says for rule in rules)}", err=True)
    left_alone_shown(out, done.left_alone)
    if done.not_moved:
        say(
            f"{len(done.not_moved)} songs keep the split that they have in {out}, such as {done.not_moved[0]}; a list "
            "moves them: --split FILE",
            err=True,
        )
    return len(refused)


@contextmanager
def _crew(out: Path, found: "Tracks", on_cluster: bool) -> "Iterator[Crew | None]":
    """The cluster's PCs, where they are asked for; who takes no part is said."""
    if not on_cluster:
        yield None
        return
    from cluster.node.head import find_head
    from jobs.prepare_on_nodes import crew_of

    # Ray prints what happens to its nodes.
    with redirect_stdout(sys.stderr), crew_of(find_head(), out, found.tracks) as crew:
        names = ", ".join(f"{node.name} ({node.cpus:g} cores)" for node in crew.nodes)
        say(f"prepared by {names}", err=True)
        for name, why in crew.left_out:
            say(f"left out: {name}: {why}", err=True)
        yield crew


def group_line(group: "Total") -> str:
    """Songs, hours, roles and bytes on one line."""
    roles = ", ".join(f"{count} {role}" for role, count in group.roles.items())
    return f"{group.songs} songs, {group.hours:.2f} hours ({roles}), {group.bytes / 1e6:,.1f} MB"


def _as_json(out: Path, found: "Tracks", done: "PrepareReport") -> dict[str, Any]:
    return {
        "data": str(out),
        "layouts": {str(source): layout for source, layout in found.layouts},
        "songs": len(done.manifest.songs),
        "digest": done.manifest.digest(),
        "prepared": list(done.prepared),
        "kept": list(done.kept),
        "read_otherwise": {song: list(rules) for song, rules in done.read_otherwise},
        "refused": [{"song": song, "why": why} for song, why in done.failed],
        "passed_over": [{"path": str(path), "why": why} for path, why in found.problems],
        "left_alone": list(done.left_alone),
    }


def left_alone_shown(data: Path, names: Sequence[str]) -> None:
    """Say which files in a data set's folder are none of its own, where there are some."""
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        say(f"{data}: left alone, not written by this data set: {', '.join(names[:3])}{more}", err=True)


def _show(out: Path, found: "Tracks", done: "PrepareReport") -> None:
    from dataprep.inspecting.inspect import song_summaries, split_totals, total

    for source, layout in found.layouts:
        typer.echo(f"{source}: layout {layout}")
    songs = song_summaries(done.manifest)
    for song in songs:
        for note in song.notes:
            say(f"{song.id}: {note}")
    for name, group in {**split_totals(songs), "all": total(songs)}.items():
        typer.echo(f"{name:>6}: {group_line(group)}")
    kept = f", {len(done.kept)} were there already" if done.kept else ""
    typer.echo(f"{len(done.prepared)} songs prepared{kept}; {len(songs)} in {out}")
