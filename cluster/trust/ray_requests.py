"""What Ray sends by HTTP by itself: in a run's processes, nothing to another account's listener.

Ray Train asks the dashboard every few seconds whether its controller lives, with the token, at 127.0.0.1 of whatever
PC it runs on. Ray calls `guard` in each process of a job before anything else (`worker_process_setup_hook`).
"""

import functools
from typing import Any

from cluster.errors import ForeignListener
from cluster.trust.peer import require_own

HOOK = f"{__name__}.guard"


@functools.cache
def guard() -> None:
    """From now on a connection of `requests` to another account of this PC is refused, as where nobody listens."""
    from urllib3.connection import HTTPConnection

    connect = HTTPConnection.connect

    def connect_to_own(connection: Any) -> None:
        connect(connection)
        try:
            require_own(connection.sock)
        except ForeignListener as error:
            connection.close()
            raise ConnectionRefusedError(str(error)) from None

    HTTPConnection.connect = connect_to_own  # type: ignore[assignment, method-assign]
