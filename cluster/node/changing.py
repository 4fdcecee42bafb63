"""One at a time: whoever starts or ends a head or node on this PC, be it a command or a supervisor."""

import contextlib
from collections.abc import Iterator

from filelock import FileLock, Timeout

from cluster.errors import OtherAtWork
from cluster.node.head import state_folder

START_TIMEOUT_S = 180.0
"""For Ray to come up, and so for a command that waits for another one."""


@contextlib.contextmanager
def unchanging(timeout_s: float = START_TIMEOUT_S) -> Iterator[None]:
    """No other process of this account starts or ends a head or node here during the block; one that does is awaited.

    Raises:
        OtherAtWork: it takes longer than `timeout_s`.
    """
    lock = FileLock(state_folder() / "lock", timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout:
        raise OtherAtWork("another `vr cluster` command is at work; try again when it has ended") from None
    try:
        yield
    finally:
        lock.release()
