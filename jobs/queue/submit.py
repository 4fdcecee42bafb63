"""Runs as Ray jobs: submit, stop, read logs, ask for states. The keeper submits through here as well."""

import contextlib
import math
import re
import shlex
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from cluster.node.head import Head, fetch, state_folder
from cluster.timings import Timings
from cluster.trust.ray_requests import HOOK, guarded
from jobs.errors import ClaimLost, JobsFailure, JobUnknown
from jobs.execution.ray_session import DRIVER_ENVIRONMENT
from jobs.queue.kept import Kept, changing, keep, require_kept
from jobs.queue.ray_client import client_of, log_session
from jobs.queue.table import Claim, Ledger
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.liveness import require_resumable
from jobs.runs.provenance import copy_source, read_origin
from vr_core.errors import UserError, VrError, command
from vr_core.files import require_no_links, write_json
from vr_core.small_files import read_json

LIVE_JOB = ("PENDING", "RUNNING")
ENDED_JOB = ("STOPPED", "SUCCEEDED", "FAILED")
ANSWER_WITHIN_S = 60.0
"""What one request to Ray's job service may take: a head that has just started takes a job after some seconds."""


def start(head: Head, run: RunFolder, recipe: Recipe, within_s: float = ANSWER_WITHIN_S) -> str:
    """Submit the next attempt of `run` with the code of this process and `recipe`; returns the submission id.

    Raises:
        RunExists: somebody carries the run already, or it is finished.
        UserError: a run of the same name was submitted from another folder.
        JobUnknown: no answer came; the keeper finds out, and submits the run again where it must.
        ClaimLost: somebody else has stopped or submitted the run at the same moment.
        JobsFailure: the head does not take the job; the run is failed then, and the keeper leaves it alone.
    """
    row = Ledger(state_folder()).row(run.id)
    # A folder that was moved is still the same run.
    if row is not None and Path(row.folder).is_dir() and Path(row.folder).resolve() != run.path.resolve():
        raise UserError(f"{run.id}: {row.folder} was submitted under this name; submit the recipe anew with --again")
    require_resumable(run, head.timings.driver_silent_s)
    with changing(run):
        keep_source(run, recipe)
        return submit_next(head, run, within_s)


def submit_next(head: Head, run: RunFolder, within_s: float = ANSWER_WITHIN_S) -> str:
    """As `start`, of a run that nobody carries and whose code is kept."""
    ledger = Ledger(state_folder())
    # Before the row: the keeper closes the row of a run that has ended.
    run.give_notice("pending", "submitted")
    opened = ledger.open(run)
    attempt = run.begin_attempt()
    claim = _record(run, attempt, opened, idle=0)
    try:
        return _submit(head, run, attempt, within_s)
    except JobUnknown:
        raise
    except JobsFailure as error:
        run.give_notice("failed", str(error))
        # A wish to stop that came meanwhile leaves the row open, and the keeper closes it.
        ledger.close(claim)
        raise


def submitted_runs() -> list[str]:
    """Ids of all runs that were ever submitted on this machine, whatever their folder."""
    return [row.run for row in Ledger(state_folder()).rows()]


def submit_attempt(head: Head, run: RunFolder, attempt: int, claim: Claim, idle: int) -> str:
    """Submit `attempt` with the code and the recipe that this head keeps; returns the submission id.

    Args:
        head: The running head.
        run: A run that nobody carries.
        attempt: Its newest one, begun by the caller.
        claim: The caller's, of the run's row.
        idle: Failed jobs in a row so far that brought no new checkpoint.

    Raises:
        ClaimLost: the claim is over, and nothing was submitted.
        JobUnknown: no answer came, and the head cannot be asked.
        JobsFailure: the head does not take the job.
    """
    _record(run, attempt, claim, idle)
    run.give_notice("pending", "submitted")
    return _submit(head, run, attempt, ANSWER_WITHIN_S)


def _record(run: RunFolder, attempt: int, claim: Claim, idle: int) -> Claim:
    """Write the row before the job: should this process die between them, the keeper finds a run without a job."""
    ledger = Ledger(state_folder())
    recorded = ledger.submitted(claim, attempt, submission_id(run, attempt), run.last_step(), idle)
    if recorded is None:
        run.give_back(attempt)
        raise ClaimLost(
            f"run {run.id}: somebody else has stopped or submitted it; see `{command('jobs show', run.typed)}`"
        )
    return recorded


def submission_id(run: RunFolder, attempt: int) -> str:
    """Ray's id of the job that carries `attempt`."""
    return f"{run.id}.a{attempt}"


def _submit(head: Head, run: RunFolder, attempt: int, within_s: float) -> str:
    submission, kept, request = submission_id(run, attempt), require_kept(run), uuid.uuid4().hex
    words = ["-m", "jobs.execution.launch", str(run.path), str(attempt), "--recipe", str(kept.recipe_file)]
    client = None
    try:
        client = client_of(head, within_s)
        client.submit_job(
            entrypoint=shlex.join([sys.executable, *words]),
            submission_id=submission,
            runtime_env=_runtime_env(head, kept),
            metadata={"run": run.id, "recipe": kept.recipe.name, "attempt": str(attempt), _REQUEST: request},
        )
    except _failures() as error:
        # Not before: Ray reads the environment, which `client_of` sets, when it is imported.
        import requests
        from ray.exceptions import AuthenticationError

        sent = client is not None and client.submits and not isinstance(error, AuthenticationError)
        taken = _took(head, submission, request) if sent else False
        if taken is None or (not taken and sent and isinstance(error, requests.Timeout)):
            # One that was not answered in time may still be carried out.
            raise JobUnknown(
                f"run {run.id}: the head did not say whether it took the job ({error_summary(error)}); "
                f"the keeper finds out and goes on with the run; see `{command('jobs show', run.typed)}`"
            ) from None
        if not taken:
            raise JobsFailure(
                f"run {run.id}: the head did not take the job ({error_summary(error)}); see `vr cluster status`"
            ) from None
    return submission


def _runtime_env(head: Head, kept: Kept) -> dict[str, Any]:
    # The code of an earlier version has no such function.
    has_guard = (kept.source / Path(*HOOK.split(".")[:-1]).with_suffix(".py")).is_file()
    return {"working_dir": str(kept.source)} | guarded(head.ports.dashboard, job_environment(head.timings), has_guard)


_REQUEST = "request"
"""Key of a job's metadata: a number of its own for each request, since an id may belong to an earlier run's job."""


def _took(head: Head, submission: str, request: str) -> bool | None:
    """Whether the head took the job of `request` although it did not say so; None where it does not answer now."""
    try:
        jobs = fetch(head, "/api/jobs/")
    except VrError:
        return None
    return any(
        job.get("submission_id") == submission and (job.get("metadata") or {}).get(_REQUEST) == request for job in jobs
    )


def _failures(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What Ray's client raises where a head does not do what it is asked, and `more`; an OSError: no answer came."""
    from ray.exceptions import AuthenticationError

    return (RuntimeError, OSError, ValueError, AuthenticationError, *more)


def job_environment(timings: Timings) -> dict[str, str]:
    """What a job's driver has in its environment besides the node's."""
    return DRIVER_ENVIRONMENT | {"RAY_JOB_STOP_WAIT_TIME_S": str(math.ceil(timings.stop_job_within_s))}


def error_summary(error: Exception) -> str:
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


def stop_job(head: Head, submission: str, within_s: float = ANSWER_WITHIN_S) -> None:
    """Ask Ray to end a job: SIGTERM to its driver, which lets the loop write a checkpoint."""
    try:
        client_of(head, within_s).stop_job(submission)
    except _failures() as error:
        raise JobsFailure(f"job {submission}: cannot be stopped ({error_summary(error)})") from None


def job_logs(head: Head, submission: str, within_s: float = ANSWER_WITHIN_S) -> str:
    """What the job's driver and workers have printed."""
    try:
        logs: str = client_of(head, within_s).get_job_logs(submission)
    except _failures() as error:
        raise JobsFailure(f"job {submission}: no logs ({error_summary(error)})") from None
    return logs


async def follow_logs(head: Head, submission: str) -> AsyncIterator[str]:
    """Pieces of the job's output as they come, until it ends.

    Raises:
        JobsFailure: the head went away, or does not know the job.
    """
    import aiohttp

    try:
        async with log_session(head) as session, session.ws_connect(f"/api/jobs/{submission}/logs/tail") as answer:
            async for message in answer:
                if message.type == aiohttp.WSMsgType.TEXT:
                    yield message.data
            if answer.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
                raise OSError("the connection was cut")
    except _failures(aiohttp.ClientError) as error:
        reason = error_summary(error) or type(error).__name__
        raise JobsFailure(f"job {submission}: no more of its output ({reason}); see `vr cluster status`") from None


def keep_source(run: RunFolder, recipe: Recipe) -> None:
    """Keep the running code and `recipe` here, so that every attempt of a run is what was submitted.

    A copy of the code goes into the run's folder, for people.
    """
    keep(run, recipe)
    require_no_links(run.root, run.path)
    copy_source(run.path / "source")
    kept: dict[str, Any] = {}
    with contextlib.suppress(ValueError):  # one that is damaged must not keep the run from going on
        kept = read_json(run.origin_file)
    write_json(run.origin_file, {**kept, **read_origin(), "machines": kept.get("machines", {})}, root=run.root)
