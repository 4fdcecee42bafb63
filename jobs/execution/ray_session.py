"""Connecting this process to Ray: a private one that ends with the command, or the running head's."""

import contextlib
import functools
import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import ClusterFailure
from cluster.installation import require_plain_installation
from cluster.node.head import Head, find_head_or_none
from cluster.node.ray_start import LOOPBACK, client_environment
from cluster.trust.peer import require_own_at
from cluster.trust.ray_requests import guard, guarded
from jobs.execution.reservations import release_abandoned
from jobs.runs.provenance import copy_source

DRIVER_ENVIRONMENT = {
    # How often Ray Train's controller looks at its workers, which bounds how often they can report; Ray's 2 s is slow.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A run leaves a drained PC by itself (`jobs.execution.supervisor`): Ray Train's own watcher is one more process of
    # 190 MB.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Nothing here asks for it, and its actor takes a fifth of a slow core.
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What a driver of ours sets beside `cluster.node.ray_start.client_environment`."""
STARTS = 3
"""Tries to start Ray here, or to connect to a head's."""


@contextlib.contextmanager
def private_ray() -> Iterator[None]:
    """A Ray on loopback, seen by nobody else, with this process's cores; it ends with the block.

    Raises:
        ClusterError: Ray cannot start from where Python is installed.
        ClusterFailure: it does not start.
    """
    require_plain_installation()
    folder = Path(tempfile.mkdtemp(prefix="vr-ray-"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(_token(), encoding="ascii")
    changes = client_environment(LOOPBACK, token) | DRIVER_ENVIRONMENT
    with _environment(changes, removed=("RAY_ADDRESS", "RAY_AUTH_TOKEN")):
        import ray

        try:
            connect(
                address="local",
                num_cpus=len(os.sched_getaffinity(0)),
                include_dashboard=False,
                object_store_memory=200_000_000,
                log_to_driver=False,
                logging_level=logging.WARNING,
                _node_ip_address=LOOPBACK,
                _temp_dir=str(folder / "r"),  # Ray opens it to every account; the one above is ours alone
            )
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def connect(**arguments: Any) -> None:
    """`ray.init`, tried again where Ray did not come up or did not answer in its own time, as on a slow PC.

    Raises:
        ForeignListener: another account of this PC answers in the head's place; it was sent nothing.
        ClusterFailure: it did not, however often it was tried.
    """
    import ray

    where = arguments.get("address") or os.environ.get("RAY_ADDRESS")
    what = "Ray did not start" if where == "local" else f"no connection to Ray at {where}"
    for number in range(1, STARTS + 1):
        if where != "local":  # before each try: the head may have ended since
            require_own_at(where or "")
        try:
            ray.init(**arguments)
            return
        except Exception as error:  # Ray raises that itself, and many kinds of it
            ray.shutdown()
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            if number == STARTS:
                raise ClusterFailure(
                    f"{what} in {STARTS} tries ({reason}); try again when this PC has less to do"
                ) from None
            print(f"{what} ({reason}); trying again", file=sys.stderr, flush=True)


@contextlib.contextmanager
def head_ray(head: Head) -> Iterator[None]:
    """The running head's Ray, with the code of this process on every worker.

    Raises:
        ClusterFailure: it does not let this process in.
    """
    with _environment(head.environment() | DRIVER_ENVIRONMENT, removed=("RAY_AUTH_TOKEN",)):
        import ray

        with tempfile.TemporaryDirectory(prefix="vr-source-") as source:
            copy_source(Path(source))
            guard()
            connect(
                address=head.gcs_address,
                runtime_env={"working_dir": source, **guarded(head.ports.dashboard)},
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        try:
            release_abandoned()
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def connected() -> Iterator[Head | None]:
    """The Ray of the running head, which is given; where none runs, a private one.

    A run or a search is made in the block: where Ray does not start, none is left behind.

    Raises:
        ClusterError, ClusterFailure: as `private_ray` and `head_ray`.
    """
    head = find_head_or_none()
    with private_ray() if head is None else head_ray(head):
        yield head


@functools.cache
def _token() -> str:
    """One for the life of this process: Ray keeps the first token that it reads."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _environment(changes: Mapping[str, str], removed: tuple[str, ...]) -> Iterator[None]:
    """The process's environment with `changes`, for the block: Ray takes these settings from nowhere else."""
    before = {key: os.environ.get(key) for key in (*changes, *removed)}
    try:
        os.environ.update(changes)
        for key in removed:
            os.environ.pop(key, None)
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
