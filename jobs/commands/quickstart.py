"""`vr quickstart`: everything once, with invented songs."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.commands.terminal import Json, console

if TYPE_CHECKING:
    from jobs.quickstart.quickstart import QuickstartResult


def quickstart(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for all that is made.")] = Path("vr-quickstart"),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the Ray head and its dashboard running; without it they end.")
    ] = False,
    songs: Annotated[int, typer.Option(help="Number of invented songs, 3 to 999.")] = 8,
    seconds: Annotated[float, typer.Option(help="Length of each song in seconds, 5 to 600.")] = 20.0,
    as_json: Json = False,
) -> None:
    """Try everything on this machine with invented songs.

    It makes a data set, starts a Ray head, and submits a pretraining and a fine-tuning job. It scores the result on a
    song that no training has seen, and separates that song. All of it takes about 4 minutes on 2 CPU cores. In the same
    folder again, what is finished is used. Ctrl-C leaves nothing running.

    Example: vr quickstart /tmp/try-vr --keep
    """
    from jobs.commands.progress import song_progress
    from jobs.quickstart.folder import QuickstartSpec
    from jobs.quickstart.quickstart import quickstart as run
    from vr_core.config import validate

    spec = validate(QuickstartSpec, {"songs": songs, "seconds": seconds}, "vr quickstart")
    result = run(folder, spec, keep, console(), song_progress)
    if as_json:
        typer.echo(json.dumps(result.plain()))
    else:
        _show(result)


def _show(result: "QuickstartResult") -> None:
    from rich.console import Console
    from rich.rule import Rule

    from vr_core.errors import command

    runs = result.folder / "runs"
    # `uv run` says so in this variable; without it, `vr` is what was typed.
    before = "uv run " if "UV" in os.environ else ""
    better_db = result.after_db - result.before_db
    stages = " · ".join(f"{name} {seconds:.0f}" for name, seconds in result.seconds.items())
    if result.dashboard:
        dashboard = f"{result.dashboard}   (it asks for the token: the line in {result.token_file})"
    else:
        dashboard = "ended with the Ray head; --keep leaves both running"
    facts = {
        "instrumental": result.instrumental,
        "vocals": result.vocals,
        "mixture": result.mixture,
        "picture": result.picture,
        "checkpoint": result.checkpoint,
        "SDR": f"{result.before_db:.1f} dB before (the mixture), {result.after_db:.1f} dB after: {better_db:+.1f} dB",
        "dashboard": dashboard,
        "seconds": stages,
    }
    following = [
        command("separate", "SONG.mp3", "-m", runs / result.finetuning, "-o", result.folder / "separated"),
        command("jobs list", "--out", runs),
        command("data prepare", "MUSIC", "--out", "DATA"),
        command("cluster down" if result.dashboard else "cluster head"),
        command("submit", "songs-pretrain", "data=DATA"),
    ]
    console = Console()
    console.print(Rule(f"{result.song}, which no training has seen, separated"))
    for name, fact in facts.items():
        console.print(f"[bold]{name:<13}[/]", end="")
        console.print(str(fact), highlight=False, markup=False, soft_wrap=True)
    console.print(Rule("next"))
    for line in following:
        console.print(before + line, highlight=False, markup=False, soft_wrap=True)
