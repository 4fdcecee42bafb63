import json
import os
import platform
from importlib.metadata import version

import pytest
import torch

from cluster.inventory import GpuSpec
from cluster.source_tree import commit_of, source_root
from jobs.commands.version import Software, read_software
from tests.command_line import vr

KNOWN = Software(
    vr="0.1.0",
    commit="3bde454e4271",
    changed=True,
    python="3.11.7",
    torch="2.13.0",
    cuda="13.0",
    gpus=(
        GpuSpec(model="NVIDIA RTX A6000", memory_gib=48.0),
        GpuSpec(model="NVIDIA GeForce RTX 3080 Ti", memory_gib=12.0),
    ),
    gpus_unknown_why=None,
    ray="2.60.0",
    system="Debian GNU/Linux 12 (bookworm), Linux 6.1.0, x86_64",
)
UNKNOWN = Software(
    vr=None, commit=None, changed=None, python="3.11.7", torch=None, cuda=None, gpus=None,
    gpus_unknown_why="nvidia-smi: no answer in 5 s", ray=None, system="unknown distribution, Linux 6.1.0, x86_64",
)  # fmt: skip


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a program of that name before all others on the path."""

    def put(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return put


def test_the_block_has_a_line_for_each_fact():
    assert KNOWN.block().splitlines() == [
        "vr      0.1.0",
        "commit  3bde454e4271 + changes",
        "Python  3.11.7",
        "torch   2.13.0",
        "CUDA    13.0",
        "GPUs    NVIDIA RTX A6000 48 GiB, NVIDIA GeForce RTX 3080 Ti 12 GiB",
        "Ray     2.60.0",
        "system  Debian GNU/Linux 12 (bookworm), Linux 6.1.0, x86_64",
    ]


def test_what_is_not_known_is_unknown():
    assert UNKNOWN.block().splitlines() == [
        "vr      unknown",
        "commit  unknown",
        "Python  3.11.7",
        "torch   unknown",
        "CUDA    unknown",
        "GPUs    unknown (nvidia-smi: no answer in 5 s)",
        "Ray     unknown",
        "system  unknown distribution, Linux 6.1.0, x86_64",
    ]


def test_it_is_the_software_that_runs_here():
    found = read_software()
    assert (found.vr, found.ray, found.python) == (version("vr"), version("ray"), platform.python_version())
    assert (found.commit, found.changed) == commit_of(source_root())
    assert found.torch == version("torch")
    assert found.cuda == (torch.version.cuda or "none")
    assert platform.release() in found.system


def test_the_command_prints_the_block_or_the_same_as_json(nvidia_smi):
    nvidia_smi("echo 'NVIDIA RTX A6000, 49140'")
    block, as_json = vr("--version").stdout, vr("--version", "--json").stdout
    found = json.loads(as_json)
    assert found["gpus"] == [{"model": "NVIDIA RTX A6000", "memory_gib": 48.0}]
    gpus = tuple(GpuSpec(**gpu) for gpu in found["gpus"])
    assert block == Software(**{**found, "gpus": gpus}).block() + "\n"
    assert vr("--json", "--version").stdout == as_json


def test_a_driver_that_does_not_work_is_no_machine_without_cards(nvidia_smi):
    nvidia_smi("echo 'no driver'; exit 9")
    found = read_software()
    assert found.gpus is None
    assert "nvidia-smi: no driver" in found.block()


def test_json_alone_belongs_to_no_command():
    for words in (["--json"], ["--json", "jobs", "list"]):
        assert "a command's own --json comes after the command" in vr(*words, code=2).stderr
