"""The wall clock of a host in a box: what `sitecustomize.py` beside this reads, and how it is set."""

import struct
from pathlib import Path

_FILE = "clock"
"""In a host's home folder: how far its clock is off."""


def variables(home: str, root: Path) -> dict[str, str]:
    """Of processes that are to have their host's clock; every Python imports `sitecustomize` at its start."""
    return {"PYTHONPATH": f"{Path(__file__).parent}:{root}", "VR_LAN_CLOCK": f"{home}/{_FILE}"}


def set_clock(home: Path, offset_days: int) -> None:
    """Set it so many days ahead, for all Python processes of the host at once."""
    # In place: processes have the file in their memory.
    with (home / _FILE).open("r+b" if (home / _FILE).exists() else "wb") as file:
        file.write(struct.pack("<q", offset_days * 86_400))
