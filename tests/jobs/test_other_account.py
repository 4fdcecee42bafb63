"""Another account of this PC that listens in the place of a process of the cluster: it is sent nothing.

The listener is a real process of another uid, on a real port; the tests run as root, as CI does.
"""

import asyncio
import contextlib
import grp
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterError, ForeignListener, TokenError
from cluster.node.gcs import publish
from cluster.node.head import fetch, state_folder
from cluster.node.ray_start import Ports
from cluster.trust import peer
from cluster.trust.peer import listener_of, opener, owner_of, require_own, require_own_at
from cluster.trust.token import create_token, read_token
from jobs.queue.submit import follow_logs, job_logs, stop_job
from jobs.queue.table import Ledger
from tests.jobs.job_api import head_record

NOBODY = 65534


@contextlib.contextmanager
def squatter(uid, port=0, family=socket.AF_INET):
    """A process of `uid` that accepts connections of 127.0.0.1:`port` and keeps what it is sent; yields port, heard."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgid(uid)
            os.setuid(uid)
            listener = socket.socket(family)  # his from the start
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1" if family == socket.AF_INET else "::", port))
            listener.listen(8)
            os.write(write, str(listener.getsockname()[1]).encode() + b"\n")
            while True:
                connection, _ = listener.accept()
                connection.settimeout(5)
                with contextlib.suppress(OSError):
                    os.write(write, connection.recv(4096))
                connection.close()
        finally:
            os._exit(1)
    os.close(write)
    port = int(os.read(read, 100))

    def heard():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with open(read, "rb", closefd=False) as pipe:
            return pipe.read()

    try:
        yield port, heard
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(read)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_another_accounts_listener_is_known_by_its_uid(family):
    with squatter(NOBODY, family=family) as (port, heard):
        with (
            socket.create_connection(("127.0.0.1", port)) as connection,
            pytest.raises(ForeignListener, match=rf"port {port} .*uid {NOBODY}.*vr cluster rotate"),
        ):
            require_own(connection)
        with pytest.raises(ForeignListener):
            require_own_at(f"127.0.0.1:{port}")
        assert heard() == b""


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_who_listens_at_a_port_is_known_without_a_connection(family):
    with squatter(NOBODY, family=family) as (port, heard):
        assert listener_of(port) == NOBODY
        heard()
        assert listener_of(port) is None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = listener.getsockname()[1]
        assert listener_of(own) == os.getuid()
        with socket.create_connection(("127.0.0.1", own)) as connection:
            assert listener_of(connection.getsockname()[1]) is None, "a connection listens to nobody"


def test_an_own_listener_passes_and_so_does_silence():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as connection, listener.accept()[0]:
            require_own(connection)
    require_own_at(f"127.0.0.1:{port}")
    require_own_at("")


@pytest.fixture
def squatted(tmp_path):
    """A head whose dashboard and GCS ports another account has taken; yields it and what was sent to both."""
    with squatter(NOBODY) as (dashboard, at_dashboard), squatter(NOBODY) as (gcs, at_gcs):
        head = head_record(tmp_path, dashboard, "b" * 32)
        yield head.model_copy(update={"ports": Ports(dashboard=dashboard, gcs=gcs)}), at_dashboard, at_gcs


async def tail(head):
    async for _ in follow_logs(head, "run.a1"):
        pass


ASK = """
import sys
import requests
from cluster.trust.ray_requests import HOOK, guard
assert HOOK == "cluster.trust.ray_requests.guard"
guard()
try:
    url = f"http://127.0.0.1:{sys.argv[1]}/api/v0/actors"
    requests.get(url, headers={"Authorization": "Bearer SECRET"}, timeout=20)
except requests.exceptions.ConnectionError as error:
    print(error)
"""


@pytest.mark.usefixtures("root")
def test_what_ray_asks_by_itself_is_sent_to_no_other_account(monkeypatch):
    """The defect: Ray Train's cleaner sent the token to whoever had the dashboard's port."""

    def ask(port):
        return subprocess.run([sys.executable, "-c", ASK, str(port)], capture_output=True, text=True, timeout=60)

    with squatter(NOBODY) as (port, heard):
        said = ask(port)
        assert f"port {port} of this PC is held by" in said.stdout, said.stderr
        assert heard() == b""
    with squatter(NOBODY) as (port, heard):
        # Of a known dashboard alone: what else a run asks of this PC is its own affair.
        monkeypatch.setenv("VR_DASHBOARD_PORT", str(port))
        assert "is held by" in ask(port).stdout
        monkeypatch.setenv("VR_DASHBOARD_PORT", "1")
        ask(port)
        assert b"GET" in heard()
    monkeypatch.delenv("VR_DASHBOARD_PORT")
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as own:
        threading.Thread(target=own.handle_request, daemon=True).start()
        said = ask(own.server_port)
        assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.usefixtures("root")
def test_every_way_to_the_dashboard_sends_nothing(squatted):
    head, at_dashboard, at_gcs = squatted
    for ask in (
        lambda: fetch(head, "/api/version"),
        lambda: stop_job(head, "run.a1"),
        lambda: job_logs(head, "run.a1"),
        lambda: asyncio.run(tail(head)),
        lambda: publish(head, ["study"]),
    ):
        with pytest.raises(ForeignListener, match=f"uid {NOBODY}"):
            ask()
    assert (at_dashboard(), at_gcs()) == (b"", b"")


def test_an_answer_that_points_elsewhere_is_not_followed():
    seen = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.server.server_port, self.headers["Authorization"]))
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{second.server_port}/")
            self.end_headers()

        def log_message(self, *_):
            pass

    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as first,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as second,
    ):
        for server in (first, second):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        request = urllib.request.Request(f"http://127.0.0.1:{first.server_port}/", headers={"Authorization": "secret"})
        with pytest.raises(urllib.error.HTTPError, match="302"):
            opener().open(request, timeout=10)
        first.shutdown()
        second.shutdown()
    assert seen == [(first.server_port, "secret")]


def test_who_does_not_accept_is_not_known_and_is_sent_nothing(monkeypatch):
    """Before 6.17 the kernel says of a connection that nobody has accepted that it is root's."""
    monkeypatch.setattr(peer, "_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with (
            socket.create_connection(("127.0.0.1", port)) as connection,
            pytest.raises(ForeignListener, match="an account that the kernel does not name"),
        ):
            require_own(connection)


ROW = "   3: 0100007F:{:04X} 0100007F:{:04X} 01 00000000:00000000 00:00000000 00000000 {:5d}        0 77 1 0 20 4"


def made(path, mode=0o600, uid=0):
    path.write_text("a" * 64 + "\n")
    path.chmod(mode)
    os.chown(path, uid, -1)
    return path


@pytest.mark.usefixtures("root")
def test_a_token_file_or_a_folder_of_another_account_is_refused(tmp_path):
    assert read_token(made(tmp_path / "own")) == "a" * 64
    with pytest.raises(TokenError, match=f"another account \\(uid {NOBODY}\\)"):
        read_token(made(tmp_path / "his", uid=NOBODY))
    (his := tmp_path / "folder").mkdir()
    (inner := his / "inner").mkdir()
    file = made(inner / "token")
    os.chown(his, NOBODY, -1)
    with pytest.raises(TokenError, match=f"{his} belongs to uid {NOBODY}"):
        read_token(file)
    os.chown(his, 0, -1)
    assert read_token(file)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(("mode", "passes"), [(0o755, True), (0o777, False), (0o1777, True), (0o770, False)])
def test_a_folder_that_others_may_write_is_refused(mode, passes, tmp_path):
    (folder := tmp_path / "folder").mkdir()
    os.chown(folder, 0, NOBODY)
    folder.chmod(mode)
    made(folder / "token")
    if passes:
        assert read_token(folder / "token")
    else:
        with pytest.raises(TokenError, match=f"{folder} can be written by others"):
            read_token(folder / "token")


def test_a_folder_of_the_owners_private_group_is_his(tmp_path, monkeypatch):
    (folder := tmp_path / "folder").mkdir()
    os.chown(folder, -1, os.getgid())
    folder.chmod(0o770)
    made(folder / "token", uid=os.getuid())
    name, _, number, _ = grp.getgrgid(os.getgid())
    monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group((name, "x", number, [])))
    assert read_token(folder / "token")
    monkeypatch.setattr(grp, "getgrgid", lambda _: grp.struct_group((name, "x", number, ["eve"])))
    with pytest.raises(TokenError, match="written by others"):
        read_token(folder / "token")


def test_neither_a_link_nor_a_pipe_is_a_token_file(tmp_path):
    made(tmp_path / "token", uid=os.getuid())
    (tmp_path / "link").symlink_to(tmp_path / "token")
    with pytest.raises(TokenError, match="it is a link"):
        read_token(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(TokenError, match="no cluster token"):
        read_token(tmp_path / "pipe")


def test_a_state_folder_that_is_open_is_closed_and_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "vr").mkdir()
    (tmp_path / "vr").chmod(0o777)
    assert state_folder().stat().st_mode & 0o777 == 0o700
    assert f"{tmp_path}/vr: was open to others (mode 777), is 700 now" in capsys.readouterr().err
    state_folder()
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("root")
def test_a_state_folder_of_another_account_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "vr").mkdir()
    os.chown(tmp_path / "vr", NOBODY, -1)
    with pytest.raises(ClusterError, match=f"another account .uid {NOBODY}."):
        state_folder()


def test_a_loose_umask_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = os.umask(0)
    try:
        create_token(state_folder() / "token")
        create_token(tmp_path / "elsewhere" / "token")
        Ledger(state_folder())
    finally:
        os.umask(before)
    assert (tmp_path / "elsewhere").stat().st_mode & 0o077 == 0
    assert state_folder().stat().st_mode & 0o077 == 0
    assert {(tmp_path / name / "token").stat().st_mode & 0o777 for name in ("elsewhere", "state/vr")} == {0o600}


@given(st.integers(1, 65535), st.integers(1, 65535), st.integers(0, 2**31))
def test_rows_are_found_by_both_ends(one, other, uid):
    rows = ["  sl  local_address rem_address   st", ROW.format(other, one, 5), ROW.format(one, other, uid), "nonsense"]
    if one != other:
        assert owner_of(rows, ("127.0.0.1", one), ("127.0.0.1", other)) == uid
        assert owner_of(rows[:2], ("127.0.0.1", one), ("127.0.0.1", other)) is None
        waiting = [row.replace(" 77 1 0", " 0 1 0") for row in rows]
        assert owner_of(waiting, ("127.0.0.1", one), ("127.0.0.1", other)) is None
    mapped = "   0: {0}:{1:04X} {0}:{2:04X} 01 0:0 0:0 0 {3:d} 0 7 1".replace("{0}", "0000000000000000FFFF00000100007F")
    assert owner_of([mapped.format(None, one, other, uid)], ("127.0.0.1", one), ("127.0.0.1", other)) == uid
