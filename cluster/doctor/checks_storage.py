"""The shared folder and the cache disks. Pure."""

import errno
import os
import shlex
from collections.abc import Iterator

from cluster.doctor.finding import Finding, fine, problem, size
from cluster.doctor.report import ClusterReport, NodeReport

_MIN_CROPS = 50e6
_MIN_READ = 80e6
_MIN_WRITE = 20e6
_MAX_STALE_S = 5.0


def shared(examination: ClusterReport) -> Iterator[Finding]:
    """One folder for all: the same file, renames, locks, and changes that are seen soon."""
    sharing = [node for node in examination.answered if node.spec.shared is not None]
    first = examination.first_sharing
    without = [node.name for node in examination.answered if node.spec.shared is None]
    if without and len(examination.nodes) > 1:
        needed = "a folder that all nodes mount (`shared`): runs and data sets lie there"
        remedy = (
            "share a folder (NFS or SMB) from one PC or the NAS, mount it everywhere, write `shared` into the inventory"
        )
        yield problem("shared folder", "warns", without, "no shared folder in the inventory", needed, remedy)
    for node in sharing:
        found = [*_share_problems(node, first or node)]
        yield from found
        yield from _open_share(node)
        if not found:
            measured = f"{node.spec.shared}: same file, renames, locks"
            yield fine("shared folder", [node.name], measured, "one folder for all nodes")
    yield from _stale(examination)


def _open_share(node: NodeReport) -> Iterator[Finding]:
    """A folder that others may write: they get no code run and no token, and can stop or spoil what lies there."""
    where = node.spec.shared
    if node.share is not None and node.share.mode & 0o022 and node.share.error is None:
        yield problem(
            "shared folder", "warns", [node.name], f"{where}: mode {node.share.mode:04o}, others may write there",
            "you alone, or people you trust: who writes there can stop or spoil runs and data sets",
            f"there: chmod go-w {shlex.quote(str(where))}; on a NAS, a folder of your own account",
        )  # fmt: skip


def _share_problems(node: NodeReport, first: NodeReport) -> Iterator[Finding]:
    name, where = [node.name], node.spec.shared
    disk = node.probe.disks.get("shared") if node.probe else None
    kind = f" ({disk.kind} from {disk.source})" if disk and disk.kind else ""
    mount = f"there: mount {where}; findmnt {where} shows what is mounted"
    if node.share is None:
        needed = "the folder can be read and written"
        if node.share_why:
            yield problem("shared folder", "blocks", name, f"{where}{kind}: {node.share_why}", needed, mount)
        return
    share = node.share
    if not share.same_file:
        measured = f"{where}{kind}: the file that {first.name} wrote is not there"
        needed = f"the folder that {first.name} has"
        yield problem("shared folder", "blocks", name, measured, needed, mount)
    elif share.error is not None or not share.renamed:
        measured = f"{where}{kind}: {share.error or 'a renamed file kept its old content'}"
        needed = "files can be written, renamed over others and read back"
        user = node.probe.system.user if node.probe else "you"
        remedy = f"let {user} write there; checkpoints are written so"
        yield problem("shared folder", "blocks", name, measured, needed, remedy)
    elif not share.locked or share.lock_seen is False:
        others = "of another node " if share.locked else ""
        measured = f"{where}{kind}: a lock {others}keeps nobody out"
        needed = "locks that all nodes see"
        remedy = "NFS 4 (mount -t nfs4), or SMB without nobrl; sshfs has no locks between PCs. Submit from one PC only"
        yield problem("shared folder", "warns", name, measured, needed, remedy)


def _stale(examination: ClusterReport) -> Iterator[Finding]:
    needed = f"seen within {_MAX_STALE_S:g} s: runs wait for each other's files"
    # Where a node has another folder, that is what is wrong.
    together = {node.name for node in examination.answered if node.share and node.share.same_file}
    for (one, other), link in examination.links.items():
        if not {one, other} <= together:
            continue
        if link.stale_error is not None or (link.stale_s or 0.0) > _MAX_STALE_S:
            measured = f"a file renamed on {one}: on {other} {link.stale_error or f'seen after {link.stale_s:.1f} s'}"
            remedy = f"on {other}: mount with the option actimeo=1 (NFS, SMB), or sshfs with -o dcache=no"
            yield problem("shared folder", "warns", [other, one], measured, needed, remedy)
        elif link.stale_s is not None:
            measured = f"a file renamed on {one} is seen on {other} after {1000 * link.stale_s:.0f} ms"
            yield fine("shared folder", [other, one], measured, needed)


def rates(examination: ClusterReport) -> Iterator[Finding]:
    """What the shared folder and the caches deliver."""
    write = examination.share_write
    first = examination.first_sharing
    if write is not None and first is not None and write < _MIN_WRITE:
        needed = f"{size(_MIN_WRITE)}/s: a checkpoint of 1 GB takes {1e9 / _MIN_WRITE:.0f} s then"
        measured = f"writes {size(write)}/s to the shared folder"
        yield problem(
            "storage rate", "warns", [first.name], measured, needed, "a faster disk or link for the shared folder"
        )
    for node in examination.answered:
        yield from _shared_rates(node)
        yield from _cache_rates(node)


def _shared_rates(node: NodeReport) -> Iterator[Finding]:
    rate = node.share_rates
    if rate is None or rate.error is not None or rate.read is None or rate.crops is None:
        return
    measured = f"shared folder: {size(rate.read)}/s in order, {size(rate.crops)}/s in crops of 1 MiB"
    needed = f"{size(_MIN_READ)}/s in order, {size(_MIN_CROPS)}/s in crops: {_MIN_CROPS / 2**20:.0f} crops a second"
    if rate.read < _MIN_READ or rate.crops < _MIN_CROPS:
        remedy = "a cache disk on this node (`cache` in the inventory; vr data stage), or a faster link to the storage"
        yield problem("storage rate", "warns", [node.name], measured, needed, remedy)
    else:
        yield fine("storage rate", [node.name], measured, needed)


def _cache_rates(node: NodeReport) -> Iterator[Finding]:
    rate = node.cache
    if rate is None:
        return
    if rate.error is not None or rate.read is None or rate.crops is None or rate.write is None:
        needed, remedy = (
            "a folder on a disk of this PC",
            f"there: mkdir -p {shlex.quote(str(rate.path))}; or correct the inventory",
        )
        if os.strerror(errno.ENOSPC) in (rate.error or ""):
            needed = "room on the disk"
            remedy = f"there: make room; du -xh -d1 {rate.path} | sort -h shows where it went"
        yield problem("storage rate", "blocks", [node.name], f"cache {rate.path}: {rate.error}", needed, remedy)
        return
    measured = f"cache: {size(rate.crops)}/s in crops of 1 MiB, writes {size(rate.write)}/s"
    shared_crops = node.share_rates.crops if node.share_rates else None
    floor = max(_MIN_CROPS, shared_crops or 0.0)
    needed = f"{size(floor)}/s in crops" + (", as the shared folder gives" if floor > _MIN_CROPS else "")
    if rate.crops < floor:
        remedy = "a cache on an SSD; a cache slower than the shared folder is better left out of the inventory"
        yield problem("storage rate", "warns", [node.name], measured, needed, remedy)
    else:
        yield fine("storage rate", [node.name], measured, needed)
