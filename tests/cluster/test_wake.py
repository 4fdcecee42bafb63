import socket

import pytest

from cluster.errors import ClusterFailure
from cluster.hardware.wake import broadcast_of, magic_packet, suspend, wake
from cluster.inventory import NodeSpec

MAC = "9c:6b:00:12:34:56"
STUDY = NodeSpec(name="study", address="192.168.1.11", user="sam", ssh=("-p", "2222"))


def test_the_packet_is_the_one_of_the_standard():
    packet = magic_packet(MAC)
    assert packet.hex() == "f" * 12 + "9c6b00123456" * 16
    assert len(packet) == 102
    assert magic_packet(MAC.upper()) == packet


def test_everyone_in_the_network_of_the_head_is_sent_the_packet():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sleeper:
        sleeper.bind(("", 0))
        sleeper.settimeout(10)
        wake(MAC, "127.0.0.2", port=sleeper.getsockname()[1])
        packet, (sender, _) = sleeper.recvfrom(1024)
    assert packet == magic_packet(MAC)
    assert sender == "127.0.0.2"


def test_the_card_of_the_network_is_chosen_and_not_that_of_the_default_route():
    cards = [("10.0.0.5", "255.0.0.0"), ("192.168.1.10", "255.255.255.0")]
    assert broadcast_of("192.168.1.10", cards) == "192.168.1.255"
    with pytest.raises(ClusterFailure, match=r"192\.168\.2\.1: no network card"):
        broadcast_of("192.168.2.1", cards)


def test_a_pc_that_refuses_is_named_with_its_words(tmp_path, monkeypatch):
    program = tmp_path / "ssh"
    program.write_text("#!/bin/sh\necho 'Failed to suspend system via logind: Access denied' >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterFailure, match="study: cannot be suspended .*Access denied.*idle_suspend"):
        suspend(STUDY)
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    suspend(STUDY)
    assert (tmp_path / "asked").read_text().endswith("-p 2222 sam@192.168.1.11 -- systemctl suspend\n")
