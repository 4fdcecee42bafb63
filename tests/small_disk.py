"""A disk that can be full: a file system of some KiB in memory, which a test fills and frees."""

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.needs import require_root

PAGE_BYTES = os.sysconf("SC_PAGESIZE")
"""It is given away in such pieces."""


class SmallDisk:
    """Mounted at `path`, which is empty at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._other = path / "other"

    def fill(self) -> None:
        """Something else takes what is left, to the last page."""
        with self._other.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(PAGE_BYTES))

    def free(self) -> None:
        """It gives that back."""
        self._other.unlink()

    def names(self) -> list[str]:
        """What else is there."""
        return sorted(path.name for path in self.path.iterdir() if path != self._other)


@contextlib.contextmanager
def small_disk(path: Path, kib: int) -> Iterator[SmallDisk]:
    """Mount one at `path`, a folder that is not there yet; needs root, which in CI the tests have."""
    require_root()
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)], check=True)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)  # what was read from it may still be mapped


def full_device(path: Path) -> None:
    """A file at `path` on which every write finds the disk full; no link, which would not be followed."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))
