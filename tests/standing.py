"""Fixtures of the LAN box with a cluster that a whole run of the tests shares: a pytest plugin, part of every run.

Whoever borrows it imports what makes it, and nobody else.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.box.standing import Standing
    from tests.lan import Lan


@pytest.fixture(scope="session")
def standing() -> "Iterator[Standing]":
    """The box of the run."""
    from tests.box.standing import Standing, set_up, traces

    box = Standing(set_up, traces)
    yield box
    box.close()


@pytest.fixture(scope="module")
def standing_lan(request: pytest.FixtureRequest, standing: "Standing") -> "Iterator[Lan]":
    """The standing box with its cluster, for this module."""
    breaks = request.node.get_closest_marker("breaks") is not None
    with standing.lent(request.node.nodeid, breaks=breaks) as lan:
        yield lan
