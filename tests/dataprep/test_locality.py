"""Who takes which items of a step."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataprep.batches.locality import StepCut, nearest, shard_names
from dataprep.batches.order import Order
from dataprep.preparing.prepare import prepare
from tests.dataprep.data import SETTINGS, labelled
from vr_core.specs.objectives import SeparateSpec


@st.composite
def problems(draw):
    shares = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3).filter(sum))
    cost = st.integers(0, 3)
    items = sum(shares)
    rows = draw(st.lists(st.lists(cost, min_size=items, max_size=items), min_size=len(shares), max_size=len(shares)))
    return np.array(rows, float), shares


@given(problems())
@settings(deadline=None)
def test_nothing_is_nearer_than_the_best_of_all_ways(problem):
    remote, shares = problem
    ranks = nearest(remote, shares)
    assert [ranks.count(rank) for rank in range(len(shares))] == shares
    membership = [rank for rank, share in enumerate(shares) for _ in range(share)]
    ways = set(itertools.permutations(membership))
    best = min(sum(remote[rank, item] for item, rank in enumerate(way)) for way in ways)
    assert sum(remote[rank, item] for item, rank in enumerate(ranks)) == best


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("locality")
    tracks = [labelled(root / "music", f"song{i}", 6000 + 900 * i, i) for i in range(6)]
    return prepare(tracks, root / "data", SETTINGS.model_copy(update={"shard_bytes": 1})).manifest


def cut_of(manifest, local, remix=0.5):
    order = Order.of(manifest, SeparateSpec(remix=remix), seed=3, crop_frames=16)
    return StepCut(order, manifest, np.array(local))


def test_every_item_of_a_step_is_taken_once_and_shares_hold(data):
    names = shard_names(data)
    local = [[i % 3 == rank for i in range(len(names))] for rank in range(3)]
    step_cut = cut_of(data, local)
    for step in range(20):
        taken = [step_cut.items_of(step, rank, (5, 3, 1)) for rank in range(3)]
        assert [len(items) for items in taken] == [5, 3, 1]
        indices = sorted(item.index for items in taken for item in items)
        assert indices == list(range(step * 9, step * 9 + 9))
        for items in taken:
            assert list(items) == sorted(items, key=lambda item: item.index)


def test_who_has_a_song_takes_it(data):
    shards = [{stem.shard for stem in song.stems.values()} for song in data.songs]
    mine = set().union(*shards[:3])
    local = [[name in mine for name in shard_names(data)], [name not in mine for name in shard_names(data)]]
    near, blind = cut_of(data, local, remix=0), cut_of(data, [[True] * len(local[0])] * 2, remix=0)
    assert near.matters
    assert not blind.matters

    def foreign(step_cut):
        """Reads of songs that the rank has not, over 30 steps."""
        owners = {song.id: int(i >= 3) for i, song in enumerate(data.songs)}
        return sum(
            owners[item.reads[0].song] != rank
            for step in range(30)
            for rank in range(2)
            for item in step_cut.items_of(step, rank, (6, 6))
        )

    # Half of the items are foreign where nobody looks; what is left is what no cut with these shares avoids.
    unavoidable = 0
    for step in range(30):
        owned = [int(item.reads[0].song >= "song3") for item in near.order.items(step * 12, 12)]
        unavoidable += abs(sum(owned) - 6)
    assert foreign(near) == unavoidable < foreign(blind) / 2


def test_where_all_have_the_same_items_follow_each_other(data):
    step_cut = cut_of(data, [[False] * len(data.shards)] * 2)
    assert [item.index for item in step_cut.items_of(5, 0, (4, 2))] == [30, 31, 32, 33]
    assert [item.index for item in step_cut.items_of(5, 1, (4, 2))] == [34, 35]
