"""Back after a boot: one systemd user unit, and the process in it that starts again what was here.

The records in the state folder say what was started here and not taken down; the unit itself knows nothing of it.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster.errors import ClusterError, ClusterFailure
from cluster.node.head import Head, all_joined, read_head
from cluster.node.lifecycle import pause, resume
from cluster.node.processes import alive
from cluster.node.supervision import Companion
from vr_core.errors import VrError

UNIT = "vr-cluster.service"
_POLL_S = 2.0
_INHERITED = ("PATH", "TMPDIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")


def unit_text(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    """The unit that runs `argv`, with those of the variables that the installing shell has and ours are read from."""
    lines = [f"Environment={_quoted(f'{key}={environment[key]}')}" for key in _INHERITED if environment.get(key)]
    program, *arguments = argv  # in the program's path systemd replaces no variables
    command = " ".join([_quoted(program), *(_quoted(argument).replace("$", "$$") for argument in arguments)])
    return "\n".join(
        [
            "[Unit]",
            "Description=Ray of the home cluster, as it was before the boot (vr cluster service)",
            "",
            "[Service]",
            "Type=exec",
            f"ExecStart={command}",
            *lines,
            "Restart=on-failure",
            "RestartSec=10",
            # It ends the members itself, keeper first; what is left after that is killed.
            "KillMode=mixed",
            "TimeoutStopSec=90",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def _quoted(text: str) -> str:
    if any(ord(character) < 32 for character in text):
        raise ClusterError(f"{text!r}: a control character cannot stand in a systemd unit")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def unit_file() -> Path:
    """Where systemd looks for units of this user."""
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".config") / "systemd" / "user" / UNIT


def install(text: str) -> str:
    """Write the unit and have it started at each boot; returns what is left for the user to do, or nothing.

    Raises:
        ClusterError: no systemd serves this user here.
        ClusterFailure: systemd refuses.
    """
    require_systemd()
    unit_file().parent.mkdir(parents=True, exist_ok=True)
    unit_file().write_text(text, encoding="utf-8")
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", UNIT)
    lingering = subprocess.run(["loginctl", "enable-linger"], capture_output=True, check=False)
    # Without it, systemd starts a user's units when the user logs in, and ends them at the last logout.
    return "" if lingering.returncode == 0 else 'sudo loginctl enable-linger "$USER"'


def remove() -> None:
    """Take the unit away; what runs goes on.

    Raises:
        ClusterFailure: systemd refuses.
    """
    if unit_file().exists():
        require_systemd()
        _systemctl("disable", UNIT)
        unit_file().unlink()
        _systemctl("daemon-reload")


def has_systemd() -> bool:
    """Whether systemd is this machine's first process, as sd_booted(3) has it."""
    return Path("/run/systemd/system").is_dir()


def require_systemd() -> None:
    """Check that systemd is this machine's first process.

    Raises:
        ClusterError: it is not.
    """
    if not has_systemd():
        raise ClusterError("no systemd runs here; let something else start `vr cluster service --run` at boot")


def _systemctl(*arguments: str) -> None:
    done = subprocess.run(["systemctl", "--user", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterFailure(f"systemctl --user {' '.join(arguments)}: {done.stderr.strip()[-300:]}")


def run(
    companions: Callable[[Head], Sequence[Companion]],
    say: Callable[[str], None],
    ending: threading.Event,
    now_s: Callable[[], float] = time.monotonic,
) -> None:
    """Start what the records name and does not run, and again whenever a supervisor has ended; on `ending`, end all.

    It returns when nothing is recorded: `vr cluster down` has taken it.
    """
    next_s, wait_s = now_s(), 0.0
    while not ending.wait(wait_s):
        wait_s = _POLL_S
        head = read_head()
        members = [*([head] if head else []), *all_joined()]
        if not members:
            return
        if all(alive(member.ray) for member in members) or now_s() < next_s:
            continue
        next_s = now_s() + members[0].timings.service_again_s
        try:
            started = resume(companions)
            if started:  # else `vr cluster down` was quicker
                say(f"started again: {', '.join(started)}")
        except VrError as error:
            say(str(error))
    pause()
