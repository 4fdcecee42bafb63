"""What Ray sends by HTTP by itself: in a run's processes, nothing to another account at the dashboard's port.

Ray Train asks the dashboard every few seconds whether its controller lives, with the token, at 127.0.0.1 of whatever
PC it runs on. Ray calls `guard` in each process of a job before anything else (`worker_process_setup_hook`).
"""

import functools
import os
from collections.abc import Mapping
from typing import Any

from cluster.errors import ForeignListener
from cluster.trust.peer import require_own

HOOK = f"{__name__}.guard"
_PORT = "VR_DASHBOARD_PORT"


def guarded(dashboard_port: int, env_vars: Mapping[str, str] | None = None, has_guard: bool = True) -> dict[str, Any]:
    """The part of a runtime environment by which each of its processes calls `guard` first.

    Args:
        dashboard_port: of the head.
        env_vars: further variables of these processes.
        has_guard: whether the code that they run has this module.
    """
    known = {**(env_vars or {}), _PORT: str(dashboard_port)}
    return {"env_vars": known} | ({"worker_process_setup_hook": HOOK} if has_guard else {})


@functools.cache
def guard() -> None:
    """From now on another account at the dashboard's port is as nobody there; without a known port, at any."""
    from urllib3.connection import HTTPConnection

    connect = HTTPConnection.connect
    port = os.environ.get(_PORT)

    def connect_to_own(connection: Any) -> None:
        connect(connection)
        if port is not None and str(connection.port) != port:
            return
        try:
            require_own(connection.sock)
        except ForeignListener as error:
            connection.close()
            raise ConnectionRefusedError(str(error)) from None

    HTTPConnection.connect = connect_to_own  # type: ignore[assignment, method-assign]
