"""What `vr data` shows of a preparation: a bar while it runs, and what came of it."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jobs.commands.data.given import remember
from jobs.commands.data.planned import MOST_SONGS, Planned, about_songs_left, reasons_shown
from jobs.commands.progress import audio_bar, in_bar
from jobs.commands.terminal import say
from vr_core.errors import command

if TYPE_CHECKING:
    from dataprep.audio.tracks import Tracks
    from dataprep.inspecting.inspect import Total
    from dataprep.preparing.prepare import PrepareReport, PrepareSettings
    from jobs.prepare_on_nodes import Crew


def prepare_shown(before: Planned, settings: "PrepareSettings", as_json: bool, on_cluster: bool = False) -> int:
    """Say what is about to be done, prepare with a bar, and print what was done.

    Returns:
        How many songs or files were not used.

    Raises:
        SongsFailed: what was named itself was not used.
    """
    from dataprep.audio.reading_rules import RULES
    from dataprep.preparing.prepare import prepare
    from jobs.training.storage import roots_here

    out, found = before.out, before.found
    remember(before.sources)
    if not as_json:
        for line in before.lines(MOST_SONGS):
            say(line, err=True)
    try:
        with reasons_shown(), _crew(out, found, on_cluster) as crew, audio_bar() as report:
            if crew is not None:
                settings = settings.model_copy(update={"workers": settings.workers or crew.workers})
            done = prepare(
                found.tracks, out, settings, in_bar(report), split=before.rule, roots=roots_here(out),
                run=crew.run if crew else None,
            )  # fmt: skip
    except KeyboardInterrupt:
        say("stopped; finished songs are kept: run the same command again to go on", err=True)
        raise
    refused = [*((str(path), why) for path, why in found.problems), *done.failed]
    if as_json:
        typer.echo(json.dumps(_as_json(before, done)))
    else:
        _show(out, found, done)
    _not_used(before, refused)
    _no_song_now_shown(before)
    if done.new_content:
        say(f"other samples than before: {', '.join(done.new_content)}", err=True)
    for name, rules in done.read_otherwise:
        say(f"prepared again: {name}: {'; '.join(RULES[rule].says for rule in rules)}", err=True)
    for gone, song in done.renamed:
        say(f"{song}: holds the audio of {gone}, whose files are gone; both are in {out}", err=True)
    if done.renamed:
        ids = [gone for gone, _ in done.renamed]
        say(f"if they have other names now, take the old ones out: {command('data remove', out, *ids)}", err=True)
    left_alone_shown(out, done.left_alone)
    if done.not_moved and before.split_given:
        say(
            f"{len(done.not_moved)} songs keep the split that they have in {out}, such as {done.not_moved[0]}; a list "
            "moves them: --split FILE",
            err=True,
        )
    _require_named(before, [song for song, _ in done.failed])
    return len(refused)


def dry_run_shown(would: Planned, as_json: bool) -> int:
    """Print what a preparation would do, and do nothing; as `prepare_shown`."""
    refused = [*((str(path), why) for path, why in would.found.problems), *would.refused()]
    if as_json:
        value = {
            "data": str(would.out), "dry_run": True, "songs": would.as_json(),
            "refused": [{"song": song, "why": why} for song, why in would.refused()],
            "about_splits": would.about_splits, **_found_as_json(would),
        }  # fmt: skip
        typer.echo(json.dumps(value))
    else:
        for source, name in would.found.layouts:
            say(f"{source}: layout {name}")
        for line in would.lines():
            say(line)
        songs = [song for song in would.songs if not song.refused]
        there = sum(song.is_there for song in songs)
        known = f", of which {there} are there already" if there else ""
        say(f"{len(songs)} songs would be in {would.out}{known}; nothing was written")
    _not_used(would, refused)
    _no_song_now_shown(would)
    _require_named(would, [song for song, _ in would.refused()])
    return len(refused)


def _not_used(before: Planned, refused: Sequence[tuple[str, str]]) -> None:
    from dataprep.audio.tracks import about_no_audio

    for name, why in refused:
        say(f"not used: {name}: {why}", err=True)
    if no_audio := about_no_audio(before.found.passed_over):
        say(no_audio, err=True)


def _no_song_now_shown(before: Planned) -> None:
    if before.no_song_now:
        say(about_songs_left(before.out, before.no_song_now), err=True)


def _require_named(before: Planned, songs: Sequence[str]) -> None:
    """Refuse what was named itself and was not used: in a folder some may be bad, a file is meant."""
    from jobs.errors import SongsFailed

    if names := before.named_and_refused(songs):
        raise SongsFailed(f"not used, and named on the command line: {', '.join(names)}; see the lines above")


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


def _as_json(before: Planned, done: "PrepareReport") -> dict[str, Any]:
    return {
        "data": str(before.out),
        "songs": len(done.manifest.songs),
        "digest": done.manifest.digest(),
        "prepared": list(done.prepared),
        "kept": list(done.kept),
        "read_otherwise": {song: list(rules) for song, rules in done.read_otherwise},
        "refused": [{"song": song, "why": why} for song, why in done.failed],
        "left_alone": list(done.left_alone),
        "new_content": list(done.new_content),
        "renamed": [{"song": gone, "now": song} for gone, song in done.renamed],
        **_found_as_json(before),
    }


def _found_as_json(before: Planned) -> dict[str, Any]:
    found = before.found
    return {
        "layouts": {str(source): layout for source, layout in found.layouts},
        "passed_over": [{"path": str(path), "why": why} for path, why in found.problems],
        "no_audio": dict(found.passed_over),
        "no_song_now": list(before.no_song_now),
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
    now = set(done.prepared)
    for song in songs:
        for note in song.notes if song.id in now else ():
            say(f"{song.id}: {note}")
    if noted := sum(bool(song.notes) for song in songs if song.id not in now):
        say(f"{noted} songs that were there already have notes; {command('data inspect', out)} shows them")
    for name, group in {**split_totals(songs), "all": total(songs)}.items():
        typer.echo(f"{name:>6}: {group_line(group)}")
    kept = f", {len(done.kept)} were there already" if done.kept else ""
    typer.echo(f"{len(done.prepared)} songs prepared{kept}; {len(songs)} in {out}")
