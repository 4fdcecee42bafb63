"""Ray's client of the head's job service, with deadlines, and so that it sends the token to the head alone.

Ray's own (2.60) waits for ever, follows redirects, and asks nobody who listens at the dashboard's port.
"""

import asyncio
import logging
import os
from typing import Any

from cluster.errors import ForeignListener
from cluster.node.head import Head
from cluster.node.ray_start import LOOPBACK
from cluster.trust.peer import require_own
from cluster.trust.token import read_token


def client_of(head: Head, within_s: float) -> Any:
    """Ray's client for `head`, each of whose requests takes `within_s` at most.

    `submits` is set once it has begun to send a job. A request raises `ForeignListener` where another account answers.
    """
    # Ray reads the token and the address from the environment alone.
    os.environ.update(head.environment())
    os.environ.pop("RAY_AUTH_TOKEN", None)
    # The client would send the token through a proxy that http_proxy names.
    for key in ("NO_PROXY", "no_proxy"):
        direct = [host for host in os.environ.get(key, "").split(",") if host]
        if LOOPBACK not in direct:
            os.environ[key] = ",".join([*direct, LOOPBACK])
    import requests
    import urllib3.connection
    import urllib3.connectionpool
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Connection(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            require_own(self.sock)

    class Pool(urllib3.connectionpool.HTTPConnectionPool):
        ConnectionCls = Connection

    class Adapter(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
            super().init_poolmanager(*arguments, **more)
            self.poolmanager.pool_classes_by_scheme = {"http": Pool}

    class Client(JobSubmissionClient):
        submits = False

        def _do_request(self, method: str, endpoint: str, *, json_data: Any = None, **more: Any) -> Any:
            self.submits |= (method, endpoint) == ("POST", "/api/jobs/")
            with requests.Session() as session:
                session.mount("http://", Adapter())
                answer = session.request(
                    method, self._address + endpoint, headers=self._headers, json=json_data, allow_redirects=False,
                    timeout=within_s, **more,
                )  # fmt: skip
            if answer.status_code in (401, 403):
                raise AuthenticationError(f"Authentication failed, HTTP {answer.status_code}")
            return answer

    # It tells about every package that it uploads.
    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    return Client(head.dashboard_url)


def log_session(head: Head) -> Any:
    """An aiohttp session for `head` that carries its token; a connection raises `ForeignListener` as above."""
    import aiohttp

    class Connector(aiohttp.TCPConnector):
        async def connect(self, *arguments: Any, **more: Any) -> Any:
            connection = await super().connect(*arguments, **more)
            transport: Any = connection.transport
            try:
                await asyncio.to_thread(require_own, transport.get_extra_info("socket"))
            except ForeignListener:
                connection.close()
                raise
            return connection

    headers = {"Authorization": f"Bearer {read_token(head.token_file)}"}
    return aiohttp.ClientSession(head.dashboard_url, connector=Connector(), headers=headers)
