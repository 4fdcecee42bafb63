"""Whether somebody is carrying a run: the driver of its newest attempt, by process id here, by heartbeat elsewhere."""

import contextlib
import os
import time
from pathlib import Path

import psutil

from jobs.errors import RunExists
from jobs.runs import LIVE, RunFolder, RunState, read_json
from vr_core.files import write_json


def write_driver(run: RunFolder, attempt: int) -> None:
    """Note that this process drives `attempt`."""
    started_s = psutil.Process().create_time()
    write_json(
        run.attempt_folder(attempt) / "driver.json",
        {"boot_id": _boot_id(), "pid": os.getpid(), "started_s": started_s},
    )


def is_driven(run: RunFolder, state: RunState, silent_s: float, now_s: float | None = None) -> bool:
    """Whether a live process carries the run, which is then in `state`.

    A driver of this machine is looked up; of one elsewhere only the age of its last write is known. It writes every few
    seconds, and after `silent_s` without a write it is taken for dead.
    """
    if state.state not in LIVE:
        return False
    attempt = run.newest_attempt()
    fresh = (time.time() if now_s is None else now_s) - state.updated_s < silent_s
    if attempt == 0 or attempt > state.attempt:
        # Just submitted: the driver has not written yet.
        return fresh
    with contextlib.suppress(OSError, ValueError, KeyError):
        driver = read_json(run.attempt_folder(attempt) / "driver.json")
        if driver["boot_id"] == _boot_id():
            return _lives(int(driver["pid"]), float(driver["started_s"]))
    return fresh


def require_resumable(run: RunFolder, silent_s: float) -> None:
    """Check that an attempt of `run` may begin; `silent_s` as for `is_driven`.

    Raises:
        RunExists: it is finished, or somebody carries it.
    """
    state = run.state()
    if state.state == "finished":
        raise RunExists(f"{run.id} is finished; to repeat it, submit its recipe with --again")
    if run.newest_attempt() > 0 and is_driven(run, state, silent_s=silent_s):
        raise RunExists(f"{run.id} is {state.state} already; watch it with `vr jobs watch {run.id}`")


def _lives(pid: int, started_s: float) -> bool:
    """Whether the process is still the one that wrote the file: ids are used again."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started_s) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _boot_id() -> str:
    # Not the host's name: two PCs at home may both be called "ubuntu".
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
