"""The PC around the cards: reachable, the right one, on time, with enough of everything. Pure."""

import shlex
from collections.abc import Iterator

from cluster.doctor.finding import Finding, Trouble, fine, problem, size
from cluster.doctor.report import ClusterReport, NodeReport
from cluster.probe.readings import Disk, NodeProbe

_CLOCK_WARNS_S, _CLOCK_BLOCKS_S = 1.0, 60.0
_MIN_OPEN_FILES = 8192
_MIN_INOTIFY_INSTANCES, _MIN_INOTIFY_WATCHES = 128, 8192
_SHM_FOR_LOADERS = 2**30
_RAY_FULL = 0.95
"""Ray makes no objects on a disk fuller than this (its `local_fs_capacity_threshold`)."""
_MIN_FREE_BYTES = 10e9


def reached(examination: ClusterReport) -> Iterator[Finding]:
    """Every node answers, or is off."""
    answered = []
    for node in examination.nodes:
        if node.probe is not None:
            answered.append(node.name)
            continue
        there = node.unanswered in ("refused", "failed")
        login = f"{node.spec.user}@{node.spec.address}" if node.spec.user else node.spec.address
        command = " ".join(["ssh", *node.spec.ssh, login, "true"])
        remedy = f"make this work without a question: {command}" if there else f"switch it on; then: {command}"
        severity: Trouble = "blocks" if there or node.spec.role == "head" else "warns"
        needed = "ssh reaches it" if severity == "blocks" else "ssh reaches it; until then the others work without it"
        yield problem("reached", severity, [node.name], f"{node.spec.address}: {node.why}", needed, remedy)
    if answered:
        yield fine("reached", answered, "all answer", "every node answers")


def address(examination: ClusterReport) -> Iterator[Finding]:
    """The inventory's address and network card are those of the PC that answered."""
    for node, probe in examination.probed:
        name = [node.name]
        card = node.interface
        if card is None:
            has = (
                ", ".join(f"{a} ({c.name})" for c in probe.interfaces for a in c.addresses if c.name != "lo") or "none"
            )
            needed = f"{node.spec.address}, as the inventory says"
            remedy = "give the PC a fixed address in the router (DHCP reservation), and correct the inventory"
            yield problem("address", "blocks", name, has, needed, remedy)
        elif node.spec.interface not in (None, card.name):
            remedy = f"correct interface of {node.name} in the inventory, or leave it out"
            needed = f"{node.spec.interface}, as the inventory says"
            yield problem("address", "blocks", name, f"{node.spec.address} is on {card.name}", needed, remedy)
        else:
            yield fine("address", name, f"{node.spec.address} on {card.name}", "the inventory's address")


def clock(examination: ClusterReport) -> Iterator[Finding]:
    """All clocks together: by the link to the head where there is one, else by ssh, which leaves a second of doubt."""
    for node, _ in examination.probed:
        low_s, high_s = _ahead_s(examination, node)
        # The answer took some time to come: only what lies beyond doubt is said.
        off_s = low_s if low_s > 0 else high_s if high_s < 0 else 0.0
        against = "the head" if node.spec.role != "head" and low_s == high_s else "this machine"
        measured = f"{abs(off_s):.3g} s {'ahead of' if off_s > 0 else 'behind'} {against}"
        if abs(off_s) < 0.001:
            measured = "no difference seen"
        needed = f"within {_CLOCK_WARNS_S:g} s: files on the shared folder are compared by their times"
        if abs(off_s) < _CLOCK_WARNS_S:
            yield fine("clock", [node.name], measured, needed)
        else:
            severity: Trouble = "blocks" if abs(off_s) >= _CLOCK_BLOCKS_S else "warns"
            remedy = "there: sudo timedatectl set-ntp true (inside WSL2: sudo hwclock -s)"
            yield problem("clock", severity, [node.name], measured, needed, remedy)


def _ahead_s(examination: ClusterReport, node: NodeReport) -> tuple[float, float]:
    head = examination.head
    for (one, other), link in examination.links.items():
        if link.clock_ahead_s is not None and {one, other} == {head.name, node.name}:
            ahead_s = link.clock_ahead_s if other == node.name else -link.clock_ahead_s
            return ahead_s, ahead_s
    return node.ahead_s or (0.0, 0.0)


def names(examination: ClusterReport) -> Iterator[Finding]:
    """The host name and `localhost` lead to this PC, over IPv4."""
    for node, probe in examination.probed:
        found = [*_name_problems(node, probe)]
        yield from found
        if not found:
            measured = f"{probe.names.hostname} → {', '.join(probe.names.resolves_to)}"
            if any(a.startswith("127.") for a in probe.names.resolves_to) and not node.spec.address.startswith("127."):
                measured += "; harmless here: Ray, gloo and NCCL are given the address"
            yield fine("names", [node.name], measured, "the host name leads to this PC")


def _name_problems(node: NodeReport, probe: NodeProbe) -> Iterator[Finding]:
    host, to = probe.names.hostname, probe.names.resolves_to
    own = {a for card in probe.interfaces for a in card.addresses}
    four = [a for a in to if ":" not in a]
    foreign = [a for a in four if a not in own and not a.startswith("127.")]
    line = f"echo '127.0.1.1 {host}' | sudo tee -a /etc/hosts"
    if not to:
        remedy = f"there: {line}"
        yield problem("names", "warns", [node.name], f"{host} leads nowhere", "the host name leads to this PC", remedy)
    elif foreign:
        remedy = f"there: correct the line of {host} in /etc/hosts, or its entry in the router"
        measured = f"{host} → {', '.join(foreign)}, which this PC does not have"
        yield problem("names", "blocks", [node.name], measured, "the host name leads to this PC", remedy)
    elif not four:
        measured = f"{host} → {', '.join(to)}: IPv6 alone"
        yield problem(
            "names", "warns", [node.name], measured, "an IPv4 address; Ray and torch use IPv4", f"there: {line}"
        )
    local = probe.names.localhost
    if "127.0.0.1" not in local or probe.names.ipv6_disabled and local[0] == "::1":
        measured = f"localhost → {', '.join(local) or 'nothing'}" + (
            ", IPv6 disabled" if probe.names.ipv6_disabled else ""
        )
        remedy = "there: put the line `127.0.0.1 localhost` first into /etc/hosts"
        yield problem("names", "warns", [node.name], measured, "localhost → 127.0.0.1", remedy)


def kind(examination: ClusterReport) -> Iterator[Finding]:
    """What is not a desktop PC on a cable: WSL2, laptops, Wi-Fi."""
    for node, probe in examination.probed:
        found = [*_kind_problems(node, probe)]
        yield from found
        if not found:
            card = node.interface
            speed = f", {card.speed_mbit} Mbit/s" if card and card.speed_mbit else ""
            yield fine("kind", [node.name], f"Linux {probe.system.kernel}{speed}", "Linux on a cable")


def _kind_problems(node: NodeReport, probe: NodeProbe) -> Iterator[Finding]:
    name = [node.name]
    if probe.system.wsl:
        # Behind Windows's address translation the LAN's address is not on a card of this Linux, except when mirrored.
        mirrored = node.interface is not None and not node.spec.address.startswith("127.")
        remedy = (
            "in %UserProfile%\\.wslconfig under [wsl2]: networkingMode=mirrored; then wsl --shutdown; as admin: "
            "Set-NetFirewallHyperVVMSetting -Name '{40E0AC32-46A5-438A-A0B2-2B479E8F2E90}' -DefaultInboundAction Allow"
        )
        measured = f"WSL2 ({probe.system.kernel}), network {'mirrored' if mirrored else 'behind Windows'}"
        needed = "Ray on several PCs needs the LAN's address inside Linux; Ray's makers do not support WSL2 there"
        yield problem("kind", "warns" if mirrored else "blocks", name, measured, needed, remedy)
    card = node.interface
    if card is not None and card.wireless:
        measured = f"{node.spec.address} is on Wi-Fi ({card.name})"
        needed = "a cable: Wi-Fi is shared by all, pauses, and halves when two PCs talk to each other"
        yield problem(
            "kind", "warns", name, measured, needed, "a cable to the router; then its new address in the inventory"
        )
    if probe.system.battery:
        needed = "a PC that does not sleep: it leaves the cluster when its lid is closed"
        remedy = "there: sudo systemctl mask suspend.target; keep it on its charger"
        yield problem("kind", "warns", name, "a laptop (it has a battery)", needed, remedy)


def limits(examination: ClusterReport) -> Iterator[Finding]:
    """Open files, inotify, shared memory."""
    for node, probe in examination.probed:
        found = [*_limit_problems(node, probe)]
        yield from found
        if not found:
            system = probe.system
            measured = f"{system.open_files} open files, {size(system.shm_free_bytes)} free in /dev/shm"
            yield fine(
                "limits", [node.name], measured, f"{_MIN_OPEN_FILES} files, {size(_SHM_FOR_LOADERS)} shared memory"
            )


def _limit_problems(node: NodeReport, probe: NodeProbe) -> Iterator[Finding]:
    system, name = probe.system, [node.name]
    if system.open_files < _MIN_OPEN_FILES:
        line = f"echo '{system.user} hard nofile 65536' | sudo tee /etc/security/limits.d/vr.conf"
        measured = f"{system.open_files} open files"
        yield problem("limits", "warns", name, measured, f"{_MIN_OPEN_FILES}", f"there: {line}; then log in again")
    for key, value, least in (
        ("max_user_instances", system.inotify_instances, _MIN_INOTIFY_INSTANCES),
        ("max_user_watches", system.inotify_watches, _MIN_INOTIFY_WATCHES),
    ):
        if value < least:
            line = f"echo fs.inotify.{key}={4 * least} | sudo tee /etc/sysctl.d/60-vr.conf && sudo sysctl --system"
            yield problem("limits", "warns", name, f"inotify {key} {value}", f"{least}", f"there: {line}")
    store = node.spec.object_store_mib * 2**20
    if system.shm_free_bytes < store + _SHM_FOR_LOADERS:
        severity: Trouble = "blocks" if system.shm_free_bytes < store else "warns"
        needed = f"{size(store)} for Ray and {size(_SHM_FOR_LOADERS)} for what loaders hand over"
        remedy = "there: sudo mount -o remount,size=50% /dev/shm (in a container: --shm-size=4g)"
        measured = f"{size(system.shm_free_bytes)} free in /dev/shm"
        yield problem("limits", severity, name, measured, needed, remedy)


def secrets(examination: ClusterReport) -> Iterator[Finding]:
    """The token files are their owner's alone."""
    for node, probe in examination.probed:
        bad = [file for file in probe.secrets if file.mode & 0o077 or not file.mine]
        for file in bad:
            measured = f"{file.path}: mode {file.mode:04o}" + ("" if file.mine else ", another user's")
            path = shlex.quote(file.path)
            own = "" if file.mine else f"sudo chown {probe.system.user} {path} && "
            # Ray's own file, which a local ray.init() leaves open to all, is not the cluster's secret.
            ours = "/.ray/" not in file.path
            remedy = f"there: {own}chmod 600 {path}"
            yield problem("token", "blocks" if ours else "warns", [node.name], measured, "mode 600, your own", remedy)
        if not bad:
            measured = ", ".join(file.path for file in probe.secrets) or "none yet: vr cluster head and join bring it"
            yield fine("token", [node.name], measured, "mode 600, your own")


def disks(examination: ClusterReport) -> Iterator[Finding]:
    """Room on every disk that is used."""
    for node, probe in examination.probed:
        found = [f for what, disk in probe.disks.items() for f in _disk_problems(node, what, disk)]
        yield from found
        if not found:
            measured = ", ".join(f"{what} {size(disk.free_bytes)}" for what, disk in probe.disks.items())
            yield fine("disk", [node.name], f"free: {measured}", f"{size(_MIN_FREE_BYTES)} free on each")


def _disk_problems(node: NodeReport, what: str, disk: Disk) -> Iterator[Finding]:
    name = [node.name]
    if disk.error is not None:
        remedy = (
            f"there: mkdir -p {shlex.quote(disk.path)}"
            if what == "cache"
            else f"there: mount {disk.path}; or correct the inventory"
        )
        measured = f"{what} folder {disk.path}: {disk.error}"
        yield problem("disk", "blocks", name, measured, "a folder that can be used", remedy)
        return
    used = 1 - disk.free_bytes / max(disk.total_bytes, 1)
    measured = f"{what} folder {disk.path}: {size(disk.free_bytes)} of {size(disk.total_bytes)} free"
    if what == "temporary" and used > _RAY_FULL:
        remedy = f"there: make room on the disk of {disk.path}; du -xh -d1 {disk.path} | sort -h shows where it went"
        yield problem("disk", "blocks", name, measured, "5 % free: Ray makes nothing on a fuller disk", remedy)
    elif disk.free_bytes < _MIN_FREE_BYTES:
        severity: Trouble = "blocks" if what == "shared" and disk.free_bytes < _MIN_FREE_BYTES / 10 else "warns"
        remedy = f"there: make room; du -xh -d1 {disk.path} | sort -h shows where it went"
        yield problem("disk", severity, name, measured, f"{size(_MIN_FREE_BYTES)} free", remedy)
    cache = node.spec.cache
    if what == "cache" and cache is not None and disk.free_bytes < 1e9 * cache.quota_gb:
        needed = f"{cache.quota_gb:g} GB, the quota in the inventory (what copies take already counts in)"
        yield problem("disk", "warns", name, measured, needed, "make room there, or lower quota_gb")
