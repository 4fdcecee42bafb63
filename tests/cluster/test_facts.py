import os
import socket
import subprocess
import sys
import threading

import pytest

from cluster.errors import ClusterError, ClusterFailure
from cluster.facts import address_towards, find_gpus, interface_of, link_mbit, look, parse_gpus

INTERFACES = {"lo": ("127.0.0.1",), "eno1": ("192.168.1.11",), "wg0": ("10.7.0.2", "10.7.1.2")}


def test_cards_are_read_from_nvidia_smis_table():
    recorded = "NVIDIA GeForce RTX 3090 Ti, 24564\nNVIDIA GeForce RTX 3080 Ti, 12288\n"
    assert [(gpu.model, gpu.memory_gib) for gpu in parse_gpus(recorded)] == [
        ("NVIDIA GeForce RTX 3090 Ti", 24.0),
        ("NVIDIA GeForce RTX 3080 Ti", 12.0),
    ]
    assert parse_gpus("No devices were found\n") == ()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'NVIDIA RTX A6000, 49140'", ["NVIDIA RTX A6000"]),
        ("echo 'No devices were found'; exit 6", []),
    ],
)
def test_the_driver_is_asked(tmp_path, monkeypatch, script, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [gpu.model for gpu in look().gpus] == expected


def test_a_broken_driver_is_a_failure_and_not_a_pc_without_cards(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "couldn\'t communicate with the NVIDIA driver"; exit 9\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterFailure, match="couldn't communicate with the NVIDIA driver"):
        look()


def test_a_driver_that_hangs_is_waited_for_as_long_as_the_caller_says(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nimport signal\nsignal.pause()\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterFailure, match=r"no answer in 0\.1 s"):
        find_gpus(timeout_s=0.1)


def test_a_machine_without_the_driver_has_no_cards(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look().gpus == ()


def test_the_interface_is_found_by_its_address():
    assert interface_of("192.168.1.11", INTERFACES) == "eno1"
    assert interface_of("10.7.1.2", INTERFACES) == "wg0"
    assert interface_of("127.0.0.9", INTERFACES) == "lo"
    with pytest.raises(ClusterError, match="192.168.1.12: not an address of this machine; it has 127.0.0.1"):
        interface_of("192.168.1.12", INTERFACES)


def test_the_address_towards_a_peer_is_the_one_that_the_peer_sees():
    with socket.create_server(("127.0.0.3", 0)) as server:
        seen = []
        accepting = threading.Thread(target=lambda: seen.append(server.accept()))
        accepting.start()
        with socket.create_connection(server.getsockname()[:2]):
            accepting.join()
        connection, peer = seen[0]
        connection.close()
    assert address_towards("127.0.0.3") == peer[0]


def test_what_is_found_agrees_with_the_system():
    facts = look()
    # nproc would count the threads of OMP_NUM_THREADS instead.
    plain = {"PATH": os.environ["PATH"]}
    assert facts.cpus == int(subprocess.run(["nproc"], capture_output=True, text=True, env=plain).stdout)
    assert "127.0.0.1" in facts.addresses


@pytest.mark.parametrize(("text", "mbit"), [("2500\n", 2500), ("-1\n", None), ("", None), (None, None)])
def test_a_link_without_a_rate_has_none(text, mbit, tmp_path):
    (tmp_path / "eno1").mkdir()
    if text is not None:
        (tmp_path / "eno1" / "speed").write_text(text)
    assert link_mbit("eno1", tmp_path) == mbit
    assert link_mbit("lo", tmp_path) is None
    assert link_mbit("lo") is None
