"""What a test needs of a machine beyond the project's own environment."""

import os
from typing import NoReturn


def lacking(what: str) -> NoReturn:
    """Skip the test and say what it lacks; in CI, which has all that tests need, it fails instead."""
    import pytest  # a LAN in a box is also built without tests

    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; CI needs it")
    pytest.skip(what)


def require_root() -> None:
    """Of tests that mount, make a device, or start a process of another account."""
    if os.geteuid():
        lacking("not root")
