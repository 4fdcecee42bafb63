"""Waiting for what another thread or process brings about."""

import time
from collections.abc import Callable


def until(holds: Callable[[], object]) -> None:
    """Return once it holds."""
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s, "nothing came of it in a minute"
        time.sleep(0.02)
