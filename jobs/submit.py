"""Runs as Ray jobs: submit, stop, read logs, ask for states. The keeper submits through here as well."""

import contextlib
import logging
import math
import os
import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.head import Head, fetch, state_folder
from cluster.plan import LOOPBACK
from cluster.timings import Timings
from jobs.driver import require_resumable
from jobs.errors import JobsFailure
from jobs.ledger import Ledger
from jobs.origin import copy_source, read_origin
from jobs.ray_session import DRIVER_ENVIRONMENT
from jobs.runs import RunFolder, read_json
from vr_core.errors import UserError, VrError
from vr_core.files import write_json

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

LIVE_JOB = ("PENDING", "RUNNING")
ENDED_JOB = ("STOPPED", "SUCCEEDED", "FAILED")


def start(head: Head, run: RunFolder) -> str:
    """Submit the next attempt of `run` with the code of this process; returns the submission id.

    Raises:
        RunExists: somebody carries the run already, or it is finished.
        UserError: a run of the same name was submitted from another folder.
        JobsFailure: the head does not take the job; the run is failed then, and the keeper leaves it alone.
    """
    ledger = Ledger(state_folder())
    row = ledger.row(run.id)
    # A folder that was moved is still the same run.
    if row is not None and Path(row.folder).is_dir() and Path(row.folder).resolve() != run.path.resolve():
        raise UserError(f"{run.id}: {row.folder} was submitted under this name; submit the recipe anew with --again")
    require_resumable(run, head.timings.driver_silent_s)
    keep_source(run)
    try:
        return submit_attempt(head, run, idle=0)
    except JobsFailure as error:
        run.give_notice("failed", str(error))
        ledger.close(run.id)
        raise


def submitted_runs() -> list[str]:
    """Ids of all runs that were ever submitted on this machine, whatever their folder."""
    return [row.run for row in Ledger(state_folder()).rows()]


def submit_attempt(head: Head, run: RunFolder, idle: int) -> str:
    """Submit the next attempt with the code that is kept in the run's folder; returns the submission id.

    Args:
        head: The running head.
        run: A run that nobody carries.
        idle: Failed jobs in a row so far that brought no new checkpoint.

    Raises:
        JobsFailure: the head does not take the job.
    """
    attempt = run.begin_attempt()
    submission = f"{run.id}.a{attempt}"
    run.give_notice("pending", "submitted")
    # The row before the job: should this process die now, the keeper finds a run without a job. And after the state:
    # the keeper closes the row of a run that has ended.
    Ledger(state_folder()).submitted(run, attempt, submission, idle)
    recipe = run.recipe()
    try:
        _client(head).submit_job(
            entrypoint=shlex.join([sys.executable, "-m", "jobs.launch", str(run.path), str(attempt)]),
            submission_id=submission,
            runtime_env={"working_dir": str(run.path / "source"), "env_vars": job_environment(head.timings)},
            metadata={"run": run.id, "recipe": recipe.name, "attempt": str(attempt)},
        )
    except _failures() as error:
        if not (isinstance(error, OSError) and _has_job(head, submission)):
            raise JobsFailure(
                f"run {run.id}: the head did not take the job ({told(error)}); see `vr cluster status`"
            ) from None
    return submission


def _has_job(head: Head, submission: str) -> bool:
    """Whether the head took a job although its answer was lost; an id is given to one job only."""
    try:
        return submission in job_states(head)
    except VrError:
        return False


def _failures(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What Ray's client raises where a head does not do what it is asked, and `more`; an OSError: no answer came."""
    from ray.exceptions import AuthenticationError

    return (RuntimeError, OSError, ValueError, AuthenticationError, *more)


def job_environment(timings: Timings) -> dict[str, str]:
    """What a job's driver has in its environment besides the node's."""
    return DRIVER_ENVIRONMENT | {"RAY_JOB_STOP_WAIT_TIME_S": str(math.ceil(timings.stop_job_within_s))}


def told(error: Exception) -> str:
    """What Ray's job service says went wrong: of a traceback, which it sends for a failure of its own, the end."""
    text = str(error)
    raised = [match.end() for match in re.finditer(r"^(?:[\w.]+\.)?\w*(?:Error|Exception): ", text, re.MULTILINE)]
    return " ".join(text[raised[-1] if raised and "Traceback" in text else 0 :].split())[:300]


def job_states(head: Head) -> dict[str, str]:
    """Ray's status of every job by submission id: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.

    Raises:
        ClusterFailure: the head does not answer.
    """
    jobs = fetch(head, "/api/jobs/")
    return {job["submission_id"]: job["status"] for job in jobs if job.get("submission_id")}


def stop_job(head: Head, submission: str) -> None:
    """Ask Ray to end a job: SIGTERM to its driver, which lets the loop write a checkpoint."""
    try:
        _client(head).stop_job(submission)
    except _failures() as error:
        raise JobsFailure(f"job {submission}: cannot be stopped ({told(error)})") from None


def job_logs(head: Head, submission: str) -> str:
    """What the job's driver and workers have printed."""
    try:
        logs: str = _client(head).get_job_logs(submission)
    except _failures() as error:
        raise JobsFailure(f"job {submission}: no logs ({' '.join(str(error).split())[:300]})") from None
    return logs


async def follow_logs(head: Head, submission: str) -> AsyncIterator[str]:
    """Pieces of the job's output as they come, until it ends.

    Raises:
        JobsFailure: the head went away, or does not know the job.
    """
    import aiohttp

    try:
        async for piece in _client(head).tail_job_logs(submission):
            yield piece
    except _failures(aiohttp.ClientError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise JobsFailure(f"job {submission}: no more of its output ({reason}); see `vr cluster status`") from None


def _client(head: Head) -> "JobSubmissionClient":
    # Ray reads the token and the address from the environment alone.
    os.environ.update(head.environment())
    os.environ.pop("RAY_AUTH_TOKEN", None)
    # The client would send the token through a proxy that http_proxy names.
    for key in ("NO_PROXY", "no_proxy"):
        direct = [host for host in os.environ.get(key, "").split(",") if host]
        if LOOPBACK not in direct:
            os.environ[key] = ",".join([*direct, LOOPBACK])
    from ray.job_submission import JobSubmissionClient

    # It tells about every package that it uploads.
    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    return JobSubmissionClient(head.dashboard_url)


def keep_source(run: RunFolder) -> None:
    """Copy the running code into the run's folder, so that every attempt of a run is the code submitted."""
    copy_source(run.path / "source")
    kept: dict[str, Any] = {}
    with contextlib.suppress(ValueError):  # one that is damaged must not keep the run from going on
        kept = read_json(run.origin_file)
    write_json(run.origin_file, {**kept, **read_origin(), "machines": kept.get("machines", {})})
