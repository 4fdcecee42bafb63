"""Drivers of runs without a process of their own: what one writes that begins, and what one leaves that has died."""

import json

from jobs.runs.folder import RunFolder
from jobs.runs.liveness import write_driver


def drives(run: RunFolder, step: int = 0) -> None:
    """This process is the driver of the run's newest attempt, and its workers run."""
    attempt = run.newest_attempt()
    write_driver(run, attempt)
    run.write_state(state="running", attempt=attempt, step=step, why="")


def dies(run: RunFolder) -> None:
    """The driver of the newest attempt is gone: its process id belongs to another process now."""
    file = run.attempt_folder(run.newest_attempt()) / "driver.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "start_ticks": 0}))
