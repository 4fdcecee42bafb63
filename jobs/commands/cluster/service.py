"""`vr cluster service`: this PC's part of the cluster comes back when the PC is started again."""

import os
import signal
import threading
from typing import Annotated

import typer

from cluster.errors import ClusterError
from jobs.commands.terminal import Yes, agree, console


def service(
    remove: Annotated[
        bool, typer.Option("--remove", help="Do not start it after a boot any more; what runs goes on.")
    ] = False,
    run: Annotated[
        bool, typer.Option("--run", help="For the systemd unit: start what was here, and keep it running.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Start this PC's head or node after each boot.

    systemd does that, until `vr cluster down`.

    Example: vr cluster service
    """
    from cluster.node import service as unit

    if remove and run:
        raise ClusterError("--remove and --run: choose one")
    if run:
        _run()
        return
    if remove:
        unit.remove()
        console().print("The cluster is started no more after a boot.")
        return
    unit.require_systemd()
    console().print(f"writes  {unit.unit_file()}, enables it, and lets it run without a login (loginctl enable-linger)")
    agree("Start the cluster's part of this PC after each boot?", yes)
    left = install()
    console().print("After each boot, what runs here now is started again. Not so what `vr cluster down` has ended.")
    if left:
        typer.echo(left)


def install() -> str:
    """Install the unit for this PC; returns what is left for the user to do, in words, or nothing."""
    from cluster.installation import installed_executable
    from cluster.node import service as unit

    left = unit.install(
        unit.unit_text([installed_executable(), "-m", "jobs.cli", "cluster", "service", "--run"], os.environ)
    )
    return f"comes back when you log in, and after each boot if you type there: {left}" if left else ""


def _run() -> None:
    from cluster.joining.admission import companions_of
    from cluster.node.service import run
    from jobs.queue.keeper import KEEPER

    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    signal.signal(signal.SIGINT, lambda *_: ending.set())
    run(lambda head: companions_of(head.node, [KEEPER]), lambda line: print(line, flush=True), ending)
