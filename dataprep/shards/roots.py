"""Where a PC has shards of a data set besides the data set's own folder: several disks, other ones on every PC.

`roots.yaml` in the data set's folder names them, and an inventory's `data_roots` may:

    everywhere: [/mnt/archive/songs]
    nodes:
      attic: [/mnt/ssd1/songs, /mnt/ssd2/songs]
      study: [/data/songs]

A root holds shards under their own names, moved or copied there by hand; each may hold any part. Of several places that
have a shard the one on a disk of this PC is read.
"""

import platform
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from dataprep.errors import ManifestError, ShardError
from dataprep.shards.reader import on_local_disk
from dataprep.shards.writer import ShardRow
from vr_core.config import Spec, load
from vr_core.errors import ConfigError, StorageError
from vr_core.small_files import expanded

FILE = "roots.yaml"


@cache
def _is_local(folder: Path) -> bool:
    return on_local_disk(folder)


class RootsSpec(Spec):
    """`roots.yaml`."""

    everywhere: tuple[Path, ...] = ()
    """Roots of every PC."""
    nodes: dict[str, tuple[Path, ...]] = {}
    """Name of a PC in its cluster, else its host name → further roots of it."""


@dataclass(frozen=True)
class Reach:
    """Which shards a PC can read, by name."""

    local: frozenset[str]
    """On its own disks."""
    remote: frozenset[str]
    """From other PCs."""
    missing: frozenset[str]
    """From nowhere."""


@dataclass(frozen=True)
class Roots:
    """The folders in which this PC looks for shards of a data set."""

    folder: Path
    """Of the data set; the last one."""
    here: tuple[Path, ...] = ()
    """Roots of this PC."""
    elsewhere: bool = False
    """Other PCs have roots of their own, so that what is not found here may be there."""
    is_local: Callable[[Path], bool] = field(default=_is_local, compare=False)
    """Whether a folder is on a disk of this PC."""

    @classmethod
    def of(cls, folder: Path, node: str | None = None, more: Sequence[Path] = ()) -> "Roots":
        """The roots of the data set in `folder` on the PC called `node`, by default this host's name.

        Args:
            folder: of the data set.
            node: whose.
            more: folders that hold one data set or several, each in a folder of its name (an inventory's `data_roots`).

        Raises:
            ManifestError: `roots.yaml` is not as it should be.
        """
        try:
            spec = load(RootsSpec, folder / FILE) if (folder / FILE).is_file() else RootsSpec()
        except ConfigError as error:
            raise ManifestError(str(error)) from None
        name = node or platform.node()
        own = [expanded(root) for root in (*spec.everywhere, *spec.nodes.get(name, ()))]
        own += [root / folder.name if (root / folder.name).is_dir() else root for root in more]
        return cls(
            folder, tuple(dict.fromkeys(own)), any(roots for other, roots in spec.nodes.items() if other != name)
        )

    def find(self, name: str, row: ShardRow) -> Path | None:
        """The shard `name` in its full length, on a disk of this PC where there is one; None where there is none."""
        found = [place / name for place in (*self.here, self.folder) if _is_whole(place / name, row)]
        return next((path for path in found if self.is_local(path.parent)), found[0] if found else None)

    def reach(self, shards: Mapping[str, ShardRow]) -> Reach:
        """Which of the shards can be read from here."""
        paths = {name: self.find(name, row) for name, row in shards.items()}
        local = frozenset(name for name, path in paths.items() if path is not None and self.is_local(path.parent))
        missing = frozenset(name for name, path in paths.items() if path is None)
        return Reach(local, frozenset(shards) - local - missing, missing)

    def owns(self, path: Path) -> bool:
        """Whether `path` is in a root on a disk of this PC."""
        return path.parent in self.here and self.is_local(path.parent)

    def may_have(self, name: str, row: ShardRow) -> bool:
        """Whether a shard is there, or may be where this PC cannot look: on another PC, in a root that is not there."""
        return self.elsewhere or bool(self.absent()) or self.find(name, row) is not None

    def absent(self) -> tuple[Path, ...]:
        """Roots that are not there now."""
        return tuple(root for root in self.here if not root.is_dir())

    def require(self, shards: Mapping[str, ShardRow], missing: Collection[str]) -> None:
        """Refuse data of which some cannot be read.

        Args:
            shards: all that is going to be read.
            missing: those of them that are nowhere.

        Raises:
            StorageError: says how much it is, and which roots are not there; they may come back.
            ShardError: the same where no roots are named.
        """
        if missing:
            kind = StorageError if self.here or self.elsewhere else ShardError
            raise kind(f"{self.folder}: {self.gap(shards, missing)}")

    def gap(self, shards: Mapping[str, ShardRow], missing: Collection[str]) -> str:
        """How much of the data is missing here, and why it may be."""
        share = sum(shards[name].bytes for name in missing) / sum(row.bytes for row in shards.values())
        gone = ", ".join(map(str, self.absent()))
        why = f"not there: {gone}" if gone else f"looked for in {', '.join(map(str, (*self.here, self.folder)))}"
        return (
            f"{100 * share:.3g} % of the data ({len(missing)} of {len(shards)} shards, such as {min(missing)}) cannot "
            f"be read from {platform.node()}; {why}; mount it, or name the folder that has them in {self.folder / FILE}"
        )


def _is_whole(path: Path, row: ShardRow) -> bool:
    """Whether a shard is there in its full length; its bytes are `vr data verify`'s to check."""
    try:
        found = path.stat()
        return stat.S_ISREG(found.st_mode) and found.st_size == row.bytes
    except OSError:
        return False
