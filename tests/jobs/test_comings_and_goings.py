"""A run on whatever PCs are there, in a LAN in a box, and one of each kind of what happens to them.

Each event is a test of its own, in this order, on the same run; then what must hold at its end. In float64 the weights
are those of one process that was never disturbed, to 1e-8: in float32 the rounding of other sums alone drifts apart by
more. No time is asserted: `python -m tests.bench recovery` measures it. The other events are in
`test_more_comings_and_goings`, and `python -m tests.box.soak` goes on for hours. A PC that is drained and a head whose
Ray is killed are in `test_run_on_several_pcs`.
"""

import pytest

from tests.box.goings import Goings

pytestmark = [pytest.mark.xdist_group("box"), pytest.mark.ray]


class TestOneOfEachKind(Goings):
    events = ("cable pulled", "cable back", "storage away", "worker hangs", "checkpoint damaged", "driver killed")
    attempts = 2
