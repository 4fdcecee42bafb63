"""The join endpoint as a process, and its clients, over real sockets; Ray is stood in for by a process that sleeps."""

import contextlib
import json
import re
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterError, ClusterFailure
from cluster.facts import Facts
from cluster.joining.admission import ADMISSION, MAX_WRONG, WRONG_S, Crowd, Guesses, Offer, Request, await_endpoint
from cluster.joining.certificate import client_context, ensure_certificate, fingerprint, server_context
from cluster.joining.invitations import forget_all, invite, locked, read_invitations
from cluster.joining.join_code import JoinCode, parse_code
from cluster.joining.redeem import entry, redeem
from cluster.node.head import Head, head_file, state_folder, write_member
from cluster.node.processes import end, spawn
from cluster.node.ray_start import Ports, node_start
from cluster.trust.token import create_token, read_token, token_sha256
from cluster.versions import own_versions

VERSIONS = own_versions()
ADDRESS = "127.0.0.2"


def free_port():
    with socket.create_server((ADDRESS, 0)) as probe:
        return probe.getsockname()[1]


class Endpoint:
    """A head's record, its token, a process in Ray's place, and the endpoint beside it."""

    def __init__(self, home):
        create_token(state_folder() / "token")
        facts = Facts(hostname="attic", cpus=1, memory_bytes=2**30, gpus=(), interfaces={"lo": ("127.0.0.1", ADDRESS)})
        self.environment = {"XDG_STATE_HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path.cwd())}
        self.ray = spawn("ray", ["sleep", "600"], self.environment, state_folder() / "ray.log", home)
        self.head = Head(
            id="0123456789abcdef",
            node=node_start(facts, address=ADDRESS),
            ports=Ports(admission=free_port()),
            token_file=state_folder() / "token",
            temp_dir=home / "ray",
            processes=(self.ray,),
        )
        self.token = read_token(self.head.token_file)
        self.start()

    def start(self, files=1024):
        """`files`: how many it may open."""
        write_member(head_file(), self.head)
        argv = ["prlimit", f"--nofile={files}", *ADMISSION.argv]
        ref = spawn(ADMISSION.name, argv, self.environment, state_folder() / "admission.log", Path.cwd())
        self.head = self.head.model_copy(update={"processes": (self.ray, ref)})
        write_member(head_file(), self.head)
        await_endpoint(self.head)

    def restart(self, **limits):
        end(self.head.processes[1:], self.head.id)
        self.start(**limits)

    @property
    def log(self):
        return (state_folder() / "admission.log").read_text()


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    started = Endpoint(tmp_path)
    yield started
    end(started.head.processes[::-1], started.head.id)


def take(text):
    return redeem(parse_code(text), VERSIONS, take=True)


def say(endpoint, line, source="127.0.0.1"):
    """What the endpoint answers to one line, or nothing."""
    address = (ADDRESS, endpoint.head.ports.admission)
    with (
        socket.create_connection(address, timeout=30, source_address=(source, 0)) as plain,
        client_context().wrap_socket(plain) as channel,
    ):
        with contextlib.suppress(OSError):
            channel.sendall(line)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := channel.recv(4096):
                received += piece
        return received


def test_a_code_is_traded_once_for_the_token_and_asking_first_costs_nothing(endpoint):
    text = invite(endpoint.head, VERSIONS)
    asked = redeem(parse_code(text), VERSIONS, take=False)
    assert asked == Offer(head=f"{ADDRESS}:6379", token_sha256=token_sha256(endpoint.token))
    assert take(text).token == endpoint.token
    for again in (True, False):
        with pytest.raises(ClusterError, match=r"127.0.0.2:\d+: the code was used already, by 127.0.0.1"):
            redeem(parse_code(text), VERSIONS, take=again)
    assert take(invite(endpoint.head, VERSIONS)).token == endpoint.token


def test_of_many_that_trade_one_code_at_once_one_gets_the_token(endpoint):
    text = invite(endpoint.head, VERSIONS)
    got, refused = [], []

    def trade():
        try:
            got.append(take(text).token)
        except ClusterError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=trade) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [endpoint.token]
    assert len(refused) == 7
    assert all("used already" in line for line in refused)


def test_a_trade_waits_while_codes_are_written(endpoint):
    text, got = invite(endpoint.head, VERSIONS), []
    thread = threading.Thread(target=lambda: got.append(take(text).token))
    with locked():
        thread.start()
        thread.join(timeout=1.0)
        assert thread.is_alive()
    thread.join()
    assert got == [endpoint.token]


def test_a_code_whose_time_is_over_is_refused(endpoint):
    text = invite(endpoint.head, VERSIONS, valid_s=0.2)
    until_s = read_invitations()[-1].until_s
    while time.clock_gettime(time.CLOCK_BOOTTIME) < until_s:
        threading.Event().wait(0.05)
    with pytest.raises(ClusterError, match="the code is over"):
        take(text)


def test_codes_outlive_the_endpoint_and_not_a_new_certificate(endpoint):
    first, spent = invite(endpoint.head, VERSIONS), invite(endpoint.head, VERSIONS)
    take(spent)
    endpoint.restart()
    assert take(first).token == endpoint.token
    with pytest.raises(ClusterError, match="used already"):
        take(spent)
    lost = invite(endpoint.head, VERSIONS)
    forget_all()
    endpoint.restart()
    with pytest.raises(ClusterError, match="another certificate than the code's"):
        take(lost)


def test_who_is_in_between_with_another_certificate_is_told_nothing(endpoint, tmp_path):
    code = parse_code(invite(endpoint.head, VERSIONS))
    ensure_certificate(tmp_path / "other.pem")
    heard = []
    with socket.create_server((ADDRESS, 0)) as server:

        def pretend():
            connection, _ = server.accept()
            with (
                connection,
                contextlib.suppress(OSError),
                server_context(tmp_path / "other.pem").wrap_socket(connection, server_side=True) as channel,
            ):
                heard.append("a client")
                heard.append(channel.recv(4096))

        thread = threading.Thread(target=pretend)
        thread.start()
        with pytest.raises(ClusterError, match="another certificate than the code's, and was told nothing"):
            redeem(code._replace(port=server.getsockname()[1]), VERSIONS, take=True)
        thread.join()
    assert heard in (["a client"], ["a client", b""])
    assert redeem(code, VERSIONS, take=True).token == endpoint.token


def test_other_versions_are_told_what_to_do_and_the_code_stays_good(endpoint):
    text = invite(endpoint.head, VERSIONS)
    with pytest.raises(ClusterError, match=re.escape(f"uv sync --python {VERSIONS.python}; the code stays good")):
        redeem(parse_code(text), VERSIONS.model_copy(update={"python": "3.99"}), take=True)
    assert take(text).token == endpoint.token


def test_silent_clients_keep_nobody_out(endpoint):
    address = (ADDRESS, endpoint.head.ports.admission)
    with contextlib.ExitStack() as open_ones:
        for _ in range(40):
            open_ones.enter_context(socket.create_connection(address, timeout=30))
            plain = open_ones.enter_context(socket.create_connection(address, timeout=30))
            open_ones.enter_context(client_context().wrap_socket(plain))
        assert take(invite(endpoint.head, VERSIONS)).token == endpoint.token


def test_a_stranger_with_more_connections_than_the_endpoint_has_files_keeps_nobody_out(endpoint):
    """The defect: with its file table full it answered an honest PC after seconds, and once not at all."""
    endpoint.restart(files=64)
    address = (ADDRESS, endpoint.head.ports.admission)
    with contextlib.ExitStack() as open_ones:
        for i in range(120):
            own = (f"127.0.{1 + i % 40}.9", 0)
            plain = open_ones.enter_context(socket.create_connection(address, timeout=30, source_address=own))
            if i % 2:
                with contextlib.suppress(OSError):
                    open_ones.enter_context(client_context().wrap_socket(plain))
        [process] = [psutil.Process(ref.pid) for ref in endpoint.head.processes[1:]]
        assert process.num_fds() < 64
        for _ in range(3):
            assert take(invite(endpoint.head, VERSIONS)).token == endpoint.token
    assert "Too many open files" not in endpoint.log


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60))
def test_whoever_comes_gets_a_place_and_none_has_too_many(comings):
    crowd, inside = Crowd(places=5, of_one_address=2), []
    for talk, (address, leaves) in enumerate(comings):
        lost = crowd.enter(talk, address)
        alike = [entry for entry in inside if entry[1] == address]
        expected = alike[0] if len(alike) == 2 else inside[0] if len(inside) == 5 else None
        assert lost == (expected[0] if expected else None)
        inside = [entry for entry in inside if entry != expected] + [(talk, address)]
        if leaves:
            crowd.leave(inside.pop(0)[0])
        assert len(crowd) == len(inside) <= 5
    crowd.leave(-1)


def test_a_silent_client_is_cut_off(endpoint):
    assert say(endpoint, b"") == b""


@pytest.mark.parametrize("line", [b"\n", b"GET / HTTP/1.1\r\n", b"\xff\x00\n", b"{}\n", b"[" * 16_000 + b"\n"])
def test_garbage_gets_a_line_and_the_next_client_its_token(endpoint, line):
    assert "not understood" in json.loads(say(endpoint, line))["refused"]
    assert take(invite(endpoint.head, VERSIONS)).token == endpoint.token


def test_too_long_a_line_is_not_read(endpoint):
    assert say(endpoint, b"a" * 1_000_000) == b""
    assert take(invite(endpoint.head, VERSIONS)).token == endpoint.token


def test_who_guesses_has_to_wait_and_nobody_else(endpoint):
    wrong = Request(secret="00" * 10, versions=VERSIONS, take=True).model_dump_json().encode() + b"\n"
    said = [json.loads(say(endpoint, wrong, "127.0.0.9"))["refused"] for _ in range(MAX_WRONG + 1)]
    assert all("does not know the code" in line for line in said[:-1])
    assert "too many wrong codes" in said[-1]
    text = invite(endpoint.head, VERSIONS)
    right = Request(secret=parse_code(text).secret.hex(), versions=VERSIONS, take=True).model_dump_json().encode()
    assert "too many wrong codes" in json.loads(say(endpoint, right + b"\n", "127.0.0.9"))["refused"]
    assert take(text).token == endpoint.token


def test_guesses_are_forgotten_in_time_and_never_fill_the_memory():
    guesses = Guesses()
    for i in range(MAX_WRONG):
        assert not guesses.blocked("a", float(i))
        guesses.count("a", float(i))
    assert guesses.blocked("a", WRONG_S - 1)
    assert not guesses.blocked("a", WRONG_S)
    for i in range(5000):
        guesses.count(f"address {i}", 0.0)
    assert len(guesses) <= 1024


def test_nothing_secret_is_in_the_log_or_in_an_argument(endpoint):
    text = invite(endpoint.head, VERSIONS)
    secret = parse_code(text).secret.hex()
    take(text)
    with pytest.raises(ClusterError):
        take(text)
    assert "127.0.0.1: has traded a code for the token" in endpoint.log
    argv = " ".join(psutil.Process(endpoint.head.processes[1].pid).cmdline())
    for told in (endpoint.log, argv):
        assert not [s for s in (endpoint.token, secret, secret.upper(), *text.split("-")) if s in told]
    for name in ("join.pem", "invitations.json", "token"):
        assert stat.S_IMODE((state_folder() / name).stat().st_mode) == 0o600


def test_a_dead_head_gives_no_token(endpoint):
    code = parse_code(invite(endpoint.head, VERSIONS))
    end([endpoint.ray], "none")
    with pytest.raises(ClusterError, match="the head has died"):
        redeem(code, VERSIONS, take=True)


def test_what_is_no_join_endpoint_is_named(tmp_path):
    nobody = JoinCode(ADDRESS, free_port(), bytes(16), bytes(10))
    with pytest.raises(ClusterFailure, match=rf"{nobody.endpoint}: no join endpoint answers \(Connection refused\)"):
        redeem(nobody, VERSIONS, take=False)
    pem = tmp_path / "join.pem"
    mark = ensure_certificate(pem)
    for said in (b"", b"{}\n", b'{"head": 3}\n', b"[1]\n", b"\xff\n", b"x" * 50_000):
        with socket.create_server((ADDRESS, 0)) as server:
            thread = threading.Thread(target=_answer_once, args=(server, server_context(pem), said))
            thread.start()
            with pytest.raises(ClusterFailure, match="the join endpoint's answer is not understood"):
                redeem(nobody._replace(port=server.getsockname()[1], fingerprint=mark), VERSIONS, take=True)
            thread.join()
    with socket.create_server((ADDRESS, 0)) as server:
        thread = threading.Thread(target=_answer_once, args=(server, None, b"SSH-2.0-OpenSSH_9.2\r\n"))
        thread.start()
        with pytest.raises(ClusterFailure, match="no join endpoint"):
            redeem(nobody._replace(port=server.getsockname()[1]), VERSIONS, take=True)
        thread.join()


def _answer_once(server, context, said):
    connection, _ = server.accept()
    with contextlib.suppress(OSError), connection:
        channel = context.wrap_socket(connection, server_side=True) if context else connection
        with channel:
            channel.sendall(said)
            channel.recv(65536)


def test_the_way_in_is_a_code_or_an_address_with_a_token_file(endpoint, tmp_path):
    text = invite(endpoint.head, VERSIONS)
    assert entry(text, None, VERSIONS).take() == endpoint.token
    way = entry(ADDRESS, endpoint.head.token_file, VERSIONS)
    assert (way.head, way.token_sha256, way.take()) == (
        f"{ADDRESS}:6379",
        token_sha256(endpoint.token),
        endpoint.token,
    )
    with pytest.raises(ClusterError, match="an address needs --token-file"):
        entry(ADDRESS, None, VERSIONS)
    with pytest.raises(ClusterError, match="a join code brings the token"):
        entry(text, endpoint.head.token_file, VERSIONS)
    with pytest.raises(ClusterError, match="typo"):
        entry(text[:-1], None, VERSIONS)


def test_the_certificate_is_made_once_and_its_file_is_its_owners_alone(tmp_path):
    pem = tmp_path / "join.pem"
    mark = ensure_certificate(pem)
    assert ensure_certificate(pem) == mark
    assert stat.S_IMODE(pem.stat().st_mode) == 0o600
    told = subprocess.run(
        ["openssl", "x509", "-in", str(pem), "-outform", "DER"], capture_output=True, check=True
    ).stdout
    assert fingerprint(told) == mark
    pem.write_text("nothing")
    with pytest.raises(ClusterError, match="no certificate"):
        ensure_certificate(pem)


def test_the_endpoint_is_for_a_head_with_a_lan_address_only(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "cluster.joining.admission"],
        env={"XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "no head with a LAN address" in done.stdout


def test_old_tls_is_refused(endpoint):
    old = client_context()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((ADDRESS, endpoint.head.ports.admission), timeout=30) as plain,
        pytest.raises(ssl.SSLError),
    ):
        old.wrap_socket(plain)
