"""A PC whose cable is out for minutes joins again by itself, in a LAN in a box.

The head's connection to it waits ever longer between two tries, up to 120 s, and answers every health check in between
with the failure of the last one. A node that came back on the same port was given up within seconds, eight times.
"""

import time

import pytest

from tests.lan import await_true

pytestmark = [pytest.mark.xdist_group("box"), pytest.mark.ray, pytest.mark.long("cluster/node")]

OUTAGE_S = 270
"""More than two of the longest waits of a connection (gRPC's own 120 s)."""


def alive(lan):
    return {row["name"]: row["alive"] for row in lan["attic"].vr_json("cluster", "status")["nodes"]}


def test_a_pc_that_was_away_for_minutes_is_back_within_one(standing_lan):
    lan = standing_lan
    assert alive(lan)["study"]
    lan["study"].cut()
    try:
        until_s = time.monotonic() + OUTAGE_S
        await_true(lambda: not alive(lan)["study"], "the head gives study up", every_s=1.0)
        await_true(lambda: time.monotonic() > until_s, "the outage's end", OUTAGE_S + 5, every_s=1.0)
    finally:
        lan["study"].mend()
    await_true(lambda: alive(lan)["study"], "study is back", 150, every_s=1.0)
    # To stay: it would have been given up after three health checks.
    stays_s = time.monotonic() + 15
    await_true(lambda: not alive(lan)["study"] or time.monotonic() > stays_s, "it stays", 30, every_s=1.0)
    assert alive(lan)["study"]
