"""Cgroups of a LAN in a box, versions 1 and 2: what each host may use of the CPUs and the memory."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 20_000
"""Of the CPU quota: short, so that a slow host is slow and does not stutter."""


def is_v2(root: Path = ROOT) -> bool:
    """Whether the unified hierarchy has the controllers; on a machine with both, version 1 has them."""
    return (root / "cgroup.controllers").exists()


def cpu_settings(cores: float | None, *, v2: bool, first: bool = False) -> dict[str, str]:
    """File → value that gives a group so many cores; None: all there are. `first`: before others, whenever it wants."""
    quota_us = None if cores is None else max(1000, round(cores * PERIOD_US))  # the kernel refuses less than 1 ms
    if v2:
        return {"cpu.max": f"{quota_us or 'max'} {PERIOD_US}", "cpu.weight": "10000" if first else "100"}
    weight = "262144" if first else "1024"
    return {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota_us or -1), "cpu.shares": weight}


def memory_settings(limit_bytes: int | None, *, v2: bool) -> dict[str, str]:
    """File → value that gives a group so much memory; None: all there is."""
    if v2:
        return {"memory.max": str(limit_bytes or "max")}
    return {"memory.limit_in_bytes": str(limit_bytes or -1)}


class Groups:
    """The cgroups of one box: one for each part of it by name, in every hierarchy that is needed."""

    def __init__(self, box: str, root: Path = ROOT) -> None:
        """`folders` are what has to be removed at the end; none where cgroups cannot be made (a container)."""
        self.v2 = is_v2(root)
        wanted = [root / box] if self.v2 else [root / "cpu" / box, root / "memory" / box]
        self.folders: list[Path] = []
        with contextlib.suppress(OSError):
            if self.v2:
                (root / "cgroup.subtree_control").write_text("+cpu +memory")
            for folder in wanted:
                folder.mkdir()
                self.folders.append(folder)
            if self.v2:
                (wanted[0] / "cgroup.subtree_control").write_text("+cpu +memory")

    def entrances(self, part: str) -> list[Path]:
        """Files; a process that writes its number into each of them belongs to `part`."""
        for folder in self.folders:
            (folder / part).mkdir(exist_ok=True)
        return [folder / part / "cgroup.procs" for folder in self.folders]

    def move(self, part: str, pids: Sequence[int]) -> None:
        """Put running processes into `part`; those that have ended meanwhile do not matter."""
        for entrance in self.entrances(part):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    entrance.write_text(str(pid))

    def cpu(self, part: str, cores: float | None, *, first: bool = False) -> None:
        """Give `part` so many cores, and these before all others where it comes `first`."""
        self._write(part, cpu_settings(cores, v2=self.v2, first=first))

    def memory(self, part: str, limit_bytes: int | None) -> None:
        """Give `part` so much memory."""
        self._write(part, memory_settings(limit_bytes, v2=self.v2))

    def limits(self, part: str) -> list[str]:
        """The limits of `part` as the kernel has them, each as `file value`; none where there are none."""
        # Without a limit of memory, version 1 tells the largest number of whole pages.
        free = {"cpu.cfs_quota_us": "-1", "memory.limit_in_bytes": str(2**63 - 4096)}
        if self.v2:
            free = {"cpu.max": "max", "memory.max": "max"}
        told = {file: place.read_text().split()[0] for file in free if (place := self._place(part, file)) is not None}
        return [f"{file} {value}" for file, value in told.items() if value != free[file]]

    def told(self, part: str, file: str) -> str:
        """What the kernel says in a file of `part`, such as `cpu.stat`."""
        place = self._place(part, file)
        assert place is not None, f"{part} has no {file}"
        return place.read_text()

    def _place(self, part: str, file: str) -> Path | None:
        return next((path for folder in self.folders if (path := folder / part / file).exists()), None)

    def _write(self, part: str, settings: dict[str, str]) -> None:
        self.entrances(part)
        for file, value in settings.items():
            place = self._place(part, file)
            assert place is not None, f"{file}: this machine lets root make no cgroups with it; is this a container?"
            place.write_text(value)


def enter(entrances: Sequence[Path]) -> None:
    """Put this process into the groups."""
    for entrance in entrances:
        entrance.write_text(str(os.getpid()))
