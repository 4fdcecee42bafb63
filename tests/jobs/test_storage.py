"""A data set as a PC of a cluster sees it: what its inventory says of disks reaches whoever opens data there."""

import os
from pathlib import Path

import pytest

from cluster.facts import Facts, look
from cluster.inventory import CacheSpec, NodeSpec
from cluster.node.head import Head, Joined, head_file, joined_file, write_member
from cluster.node.processes import ProcessRef, boot_id, start_ticks_of
from cluster.node.ray_start import MARKER, Ports, node_environment, node_start
from cluster.timings import DEFAULT_TIMINGS
from dataprep.shards.manifest import read_manifest
from jobs.recipe import RecipeCacheSpec
from jobs.training.storage import cache_here, open_data, roots_here
from vr_core.config import validate
from vr_core.errors import ConfigError


@pytest.fixture
def facts() -> Facts:
    return look()


def member(kind, facts: Facts, spec: NodeSpec, id: str):
    """The record of a node of which this very process is what keeps it running."""
    ticks = start_ticks_of(os.getpid())
    assert ticks is not None
    me = ProcessRef(name="ray", pid=os.getpid(), start_ticks=ticks, boot_id=boot_id(), log=Path(os.devnull))
    node = node_start(facts, spec)
    return kind(id=id, node=node, ports=Ports(), token_file=Path("t"), temp_dir=Path("r"), processes=(me,))


@pytest.fixture
def two_members(tmp_path, facts, monkeypatch):
    """A head and a joined node on one machine, each with disks of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(MARKER, raising=False)
    for kind, file, name in ((Head, head_file(), "attic"), (Joined, joined_file("study"), "study")):
        spec = NodeSpec(
            name=name,
            address="127.0.0.1",
            data_roots=(tmp_path / f"{name}-disk",),
            cache=CacheSpec(path=tmp_path / f"{name}-cache", quota_gb=1),
        )
        write_member(file, member(kind, facts, spec, f"id-of-{name}"))


def test_a_process_of_a_node_reads_that_nodes_disks(two_members, tmp_path, tiny_data, monkeypatch):
    for name in ("study", "attic"):
        monkeypatch.setenv(MARKER, f"id-of-{name}")
        assert cache_here().path == tmp_path / f"{name}-cache"
        assert roots_here(tiny_data).here == (tmp_path / f"{name}-disk",)
    opened = open_data(tiny_data)
    assert opened.has_cache
    assert len(opened.stage().copied) == len(read_manifest(tiny_data).shards)
    assert any((tmp_path / "attic-cache").glob("*.arrow"))


def test_a_command_at_the_terminal_is_of_the_head_that_runs_here(two_members, tmp_path):
    assert os.environ.get(MARKER) is None
    assert cache_here().path == tmp_path / "attic-cache"


def test_a_recipe_goes_before_the_inventory_and_without_either_there_is_no_cache(two_members, tmp_path, monkeypatch):
    assert cache_here(RecipeCacheSpec(path=tmp_path / "x", quota_gb=2)) == CacheSpec(path=tmp_path / "x", quota_gb=2)
    assert cache_here(RecipeCacheSpec(stage=True)).path == tmp_path / "attic-cache"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nothing"))
    assert cache_here() is None


def test_half_a_place_is_refused():
    with pytest.raises(ConfigError, match="path and quota_gb belong together"):
        validate(RecipeCacheSpec, {"path": "/x"}, "recipe")


def test_what_ray_starts_for_a_node_is_marked_as_its_own(facts):
    node = node_start(facts, NodeSpec(name="attic", address="127.0.0.1"))
    assert node_environment({}, node, Ports(), Path("token"), "id-of-attic", DEFAULT_TIMINGS)[MARKER] == "id-of-attic"
