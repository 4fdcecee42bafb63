"""The waits of a cluster that tests start: what is only waited for is short, what is a limit for real work is not.

A limit (until a run has stopped, a node has left, a PC is taken for lost) costs no time where all goes well, and would
end what is merely slow on a busy machine with two cores; so those keep their values, as Ray's own health checks do. A
head that was killed needs 90 s there until it is back, and its nodes are to be there still.
"""

from pathlib import Path

from cluster.timings import Timings
from vr_core.config import to_yaml

QUICK = Timings(
    keeper_turn_s=0.3,
    submitting_s=5.0,
    wake_again_s=5.0,
    publish_again_s=10.0,
    least_notice_s=2.0,
    first_retry_s=0.3,
    longest_retry_s=2.0,
    beat_s=0.5,
    driver_silent_s=15.0,
    join_after_s=1.0,
    rest_s=2.0,
    end_within_s=5.0,
    storage_again_s=0.5,
    ray_quick_s=20.0,
    ray_first_delay_s=0.3,
    ray_longest_delay_s=2.0,
    left_s=2.0,
    head_away_s=1.0,
    drained_s=4.0,
    head_lost_after_s=300.0,
    service_again_s=5.0,
)


def write_quick(folder: Path) -> Path:
    """`QUICK` as a file in `folder` for `vr cluster head` and `join --timings FILE`."""
    file = folder / "quick-timings.yaml"
    file.write_text(to_yaml(QUICK), encoding="utf-8")
    return file
