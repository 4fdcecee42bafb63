import json
import socket
import struct
import threading

import pytest

from cluster.probe import links, storage, stream
from cluster.probe.listener import Listener

HERE, THERE = "127.0.0.2", "127.0.0.3"
WORD = "the word"


def free_ports(count):
    """Ports of THERE that nobody listens on."""
    sockets = [socket.create_server((THERE, 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


@pytest.fixture
def listening():
    """Start listeners on THERE; gives (ports, measuring). They end with the test."""
    running = []

    def start(share=None, word=WORD):
        free = free_ports(4)
        ports, measuring = free[:2], free[2:]
        listener = Listener(THERE, word, ports, measuring, share)
        thread = threading.Thread(target=listener.serve, args=(60.0,))
        thread.start()
        running.append((thread, word, measuring))
        return ports, measuring

    yield start
    for thread, word, measuring in running:
        links.stop(THERE, word, measuring)
        thread.join(timeout=10)
        assert not thread.is_alive()


def measure(ports, measuring, **options):
    return links.measure(THERE, WORD, ports, measuring, **{"seconds": 0.1, "mtu": 1500, **options})


def test_a_link_is_measured_in_both_directions(listening):
    ports, measuring = listening()
    link = measure(ports, measuring)
    assert link.error is None
    assert [port.state for port in link.ports] == ["open", "open"]
    # Both ends have one clock, and the quickest answer took no longer than the median one.
    assert abs(link.clock_ahead_s) <= link.rtt_ms / 1000
    assert link.rtt_ms > 0
    assert min(link.there_mbit, link.back_mbit) > 0
    assert 0 <= link.there_resent < 1
    assert 0 <= link.back_resent < 1
    assert link.path_mtu > 1400
    assert link.full_packet
    assert (link.stale_s, link.stale_error) == (None, None)


def test_a_port_without_a_listener_is_not_open(listening):
    ports, measuring = listening()
    (nobody,) = free_ports(1)
    assert [p.state for p in measure([*ports, nobody], measuring).ports] == ["open", "open", "refused"]


def test_what_is_taken_already_is_left_alone_and_counts_as_open(listening):
    ports, measuring = listening()
    again = Listener(THERE, "another", ports, free_ports(1), None)
    thread = threading.Thread(target=again.serve, args=(60.0,))
    thread.start()
    assert [p.state for p in measure(ports, measuring).ports] == ["open", "open"]
    links.stop(THERE, "another", [again.port])
    thread.join(timeout=10)


def test_the_second_port_is_taken_where_the_first_is_not_free():
    with socket.create_server((THERE, 0)) as taken:
        first, second = taken.getsockname()[1], free_ports(1)[0]
        listener = Listener(THERE, WORD, [], [first, second], None)
        assert listener.port == second
        thread = threading.Thread(target=listener.serve, args=(60.0,))
        thread.start()
        # Who took the first port accepts and says nothing.
        assert links.find_listener(THERE, WORD, [first, second]) == second
        links.stop(THERE, WORD, [second])
        thread.join(timeout=10)
        with pytest.raises(OSError, match="is free"):
            Listener(THERE, WORD, [], [first], None)


def test_without_a_listener_there_is_only_the_reason():
    closed = free_ports(3)
    link = measure(closed[:1], closed[1:])
    assert [port.state for port in link.ports] == ["refused"]
    assert link.there_mbit is None
    assert "no connection" in link.error


def test_who_does_not_know_the_word_gets_nothing(listening):
    _, measuring = listening()
    assert links.find_listener(THERE, "wrong", measuring) is None
    for line in (b'{"word": "wrong", "do": "give", "seconds": 9}\n', b"GET / HTTP/1.1\n", b'"word"\n', b"[1]\n"):
        with socket.create_connection((THERE, measuring[0]), timeout=10) as connection:
            connection.sendall(line)
            assert connection.recv(1) == b""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.2)
        probe.sendto(b"wrong" * 100, (THERE, measuring[0]))
        with pytest.raises(TimeoutError):
            probe.recv(100)
    assert links.find_listener(THERE, WORD, measuring) is not None, "and the listener goes on"


def test_a_listener_ends_by_itself():
    listener = Listener(THERE, WORD, [], free_ports(1), None)
    listener.serve(seconds=0.05)
    assert links.find_listener(THERE, WORD, [listener.port]) is None


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / ".vr-doctor-1"
    storage.make_folder(path, WORD)
    return path


def test_it_is_measured_how_soon_the_other_node_sees_a_change(listening, folder):
    ports, measuring = listening(share=str(folder))
    link = measure(ports, measuring, changing=str(folder / "changing-1"))
    assert link.stale_error is None
    assert link.stale_s >= 0
    assert measure(ports, measuring, changing=str(folder / "changing-1")).stale_error is None, "and once more"


@pytest.mark.parametrize("when", ["written", "watched"])
def test_of_two_pairs_that_measure_at_the_same_time_each_sees_its_own_file(listening, folder, monkeypatch, when):
    one, other = listening(share=str(folder)), listening(share=str(folder))
    within = []

    def after(name):
        """Let the other pair measure once, after the first call of `links.<name>`."""
        real = getattr(links, name)

        def call(*args, **more):
            done = real(*args, **more)
            if (name == "write_renamed" or "watch" in args) and not within:
                within.append(None)
                within.append(measure(*other, changing=str(folder / "changing-2")))
            return done

        monkeypatch.setattr(links, name, call)

    after({"written": "write_renamed", "watched": "_ask"}[when])
    link = measure(*one, changing=str(folder / "changing-1"))
    assert (link.stale_error, within[1].stale_error) == (None, None)
    assert (folder / "changing-1").read_text() != (folder / "changing-2").read_text()


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "../secret", "/etc/hostname", "below/file"])
def test_only_a_plain_name_is_looked_at(listening, folder, name):
    (folder / ".hidden").write_text("old")
    (folder / "below").mkdir()
    (folder / "below" / "file").write_text("old")
    (folder.parent / "secret").write_text("old")
    _, measuring = listening(share=str(folder))
    request = {"word": WORD, "do": "watch", "file": name, "old": "old", "timeout_s": 0.1}
    with socket.create_connection((THERE, measuring[0]), timeout=10) as connection:
        stream.send_line(connection, request)
        assert connection.recv(1) == b""


def test_a_node_that_does_not_see_the_change_in_time(listening, folder, tmp_path):
    other = tmp_path / "other"
    storage.make_folder(other, WORD)
    (other / "changing-1").write_text("old")
    ports, measuring = listening(share=str(other))
    link = measure(ports, measuring, changing=str(folder / "changing-1"), stale_timeout_s=0.1)
    assert (link.stale_s, link.stale_error) == (None, "not seen within 0.1 s")


def test_a_node_without_the_folder_says_what_is_missing(listening, folder, tmp_path):
    ports, measuring = listening(share=str(tmp_path / "none"))
    link = measure(ports, measuring, changing=str(folder / "changing-1"))
    assert "none/changing-1: No such file or directory" in link.stale_error
    assert link.error is None


def test_the_share_of_repeated_segments_is_where_the_kernel_puts_it():
    words = [0] * 24
    words[23] = 5
    info = bytes(8) + struct.pack("=24I", *words) + struct.pack("=4Q", 1, 2, 3, 4) + struct.pack("=2I", 1000, 9)
    assert stream.resent_share(info) == pytest.approx(0.005)
    assert stream.resent_share(info[:104]) is None


def test_segments_of_a_real_connection_are_counted():
    with socket.create_server((THERE, 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            for _ in range(10):
                client.sendall(b"x")
                accepted.recv(1)
            info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    assert struct.unpack_from("=I", info, 136)[0] >= 10, "tcpi_segs_out"
    assert stream.resent_share(info) < 0.5


def test_a_sender_that_breaks_off_is_no_rate():
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"\0" * 1000)
        one.close()
        with pytest.raises(OSError, match="closed early"):
            stream.take(other)


def test_a_line_is_read_to_its_end_and_no_further():
    one, other = socket.socketpair()
    with one, other:
        one.sendall(json.dumps({"a": 1}).encode() + b"\nrest")
        assert stream.read_line(other) == b'{"a": 1}\n'
        assert other.recv(10) == b"rest"
        one.sendall(b"x" * 5000)
        with pytest.raises(OSError, match="closed early"):
            stream.read_line(other)
