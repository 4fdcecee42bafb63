"""Versions, drivers and cards: what the programs on a node need of it and of each other. Pure."""

import operator
import re
from collections.abc import Callable, Iterator

from cluster.doctor.finding import Finding, fine, problem
from cluster.doctor.report import ClusterReport, NodeReport
from cluster.inventory import label_value
from cluster.probe.readings import Card, NodeProbe

# NVIDIA, CUDA Compatibility, "Minor Version Compatibility", table 1, with the exact numbers of the CUDA release notes:
# a program built with any release of a major CUDA runs on this driver and every newer one.
# https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html (2026-11)
MIN_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
# CUDA 13.0 release notes: code for Maxwell, Pascal and Volta (below 7.5) can no longer be built. Blackwell's 10.x and
# 12.x came with CUDA 12.8.
MIN_CAPABILITY = {13: (7, 5)}
_BLACKWELL, _BLACKWELL_CUDA = (10, 0), (12, 8)
PYTHONS = ((3, 11), (3, 13))
"""As `requires-python` in pyproject.toml."""
_FREE_SHARE = 0.9
_HOT_C = 85


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, without what follows a letter or "+": "2.13.0+cu130" → (2, 13, 0)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def installed(examination: ClusterReport) -> Iterator[Finding]:
    """Whether `vr`, Ray and torch are there at all."""
    whole = []
    for node, probe in examination.probed:
        software = probe.software
        missing = [name for name in ("vr", "ray", "torch") if getattr(software, name) is None]
        if missing:
            yield problem(
                "installed",
                "blocks",
                [node.name],
                f"{', '.join(missing)} missing in {software.executable}",
                "vr, ray and torch",
                "there: pip install uv && uv sync",
            )
        else:
            whole.append(node.name)
    if whole:
        yield fine("installed", whole, "vr, ray and torch", "vr, ray and torch")


def python(examination: ClusterReport) -> Iterator[Finding]:
    """Ray compares Python versions to the patch; `vr` tells it to be content with the minor one."""
    low, high = (".".join(map(str, version)) for version in PYTHONS)
    same = []
    reference, whose = _reference(examination, lambda probe: probe.software.python)
    for node, probe in examination.probed:
        version = numbers(probe.software.python)
        wanted = numbers(reference)
        measured = f"{probe.software.python} ({probe.software.executable})"
        if not PYTHONS[0] <= version[:2] <= PYTHONS[1]:
            remedy = "uv python install 3.13, then there: uv sync --python 3.13"
            yield problem("python", "blocks", [node.name], measured, f"{low} to {high}", remedy)
        elif version[:2] != wanted[:2]:
            minor = ".".join(map(str, wanted[:2]))
            remedy = f"there: uv python install {minor} && uv sync --python {minor}"
            yield problem("python", "blocks", [node.name], measured, f"{minor}, as on {whose}", remedy)
        elif version != wanted:
            remedy = f"there: uv python install {reference} && uv sync --python {reference}"
            needed = f"{reference}, as on {whose}; objects that are pickled may differ between patch levels"
            yield problem("python", "warns", [node.name], measured, needed, remedy)
        else:
            same.append(node.name)
    if same:
        yield fine("python", same, reference, f"one version, {low} to {high}")


def versions(examination: ClusterReport) -> Iterator[Finding]:
    """The same Ray, torch and `vr` everywhere."""
    for name in ("ray", "torch", "vr"):
        reference, whose = _reference(examination, operator.attrgetter(f"software.{name}"))
        same = []
        for node, probe in examination.probed:
            found = getattr(probe.software, name)
            if found is None:
                continue  # said by `installed`
            if found == reference:
                same.append(node.name)
                continue
            # Ray refuses to join; of torch, a patch release speaks the same protocol, but NCCL may be another.
            mild = name == "torch" and numbers(found)[:2] == numbers(reference)[:2]
            yield problem(
                name,
                "warns" if mild else "blocks",
                [node.name],
                found,
                f"{reference}, as on {whose}",
                "there: the same commit, then uv sync",
            )
        if same:
            yield fine(name, same, reference, "one version")


def driver(examination: ClusterReport) -> Iterator[Finding]:
    """A driver that works, new enough for the CUDA that torch was built for, and a torch that knows CUDA."""
    good = []
    for node, probe in examination.probed:
        found = [*_driver_problems(node, probe)]
        yield from found
        if probe.graphics.cards and not found:
            cuda = probe.software.torch_cuda
            good.append(node.name)
            measured = f"driver {probe.graphics.driver}, torch for CUDA {cuda}"
            yield fine("driver", [node.name], measured, _needed_driver(cuda))
    builds = {p.name: probe.software.torch_cuda for p, probe in examination.probed if p.name in good}
    if len(set(builds.values())) > 1:
        measured = ", ".join(f"{name} CUDA {cuda}" for name, cuda in builds.items())
        remedy = "there: the same commit, then uv sync"
        yield problem("cuda", "warns", builds, measured, "one CUDA build of torch: NCCL must be one version", remedy)


def _driver_problems(node: NodeReport, probe: NodeProbe) -> Iterator[Finding]:
    graphics, software = probe.graphics, probe.software
    name = [node.name]
    if graphics.error is not None:
        rebooting = "version mismatch" in graphics.error.lower()
        remedy = "sudo reboot (the driver was updated while it ran)" if rebooting else "repair the driver; see dmesg"
        yield problem("driver", "blocks", name, f"nvidia-smi: {graphics.error}", "nvidia-smi answers", remedy)
        return
    if graphics.driver is None:
        if graphics.on_bus:
            measured = f"{graphics.on_bus} NVIDIA cards on the bus and no nvidia-smi"
            remedy = "sudo ubuntu-drivers install && sudo reboot; elsewhere the distribution's NVIDIA driver"
            yield problem("driver", "blocks", name, measured, "NVIDIA's driver", remedy)
        return
    if not graphics.cards or software.torch is None:
        return
    if software.torch_cuda is None:
        remedy = "there: uv sync, without an index for CPU builds; or gpus: [] in the inventory"
        yield problem("driver", "blocks", name, f"torch {software.torch} without CUDA", "torch built for CUDA", remedy)
        return
    needed = MIN_DRIVER.get(numbers(software.torch_cuda)[0])
    if needed is not None and numbers(graphics.driver) < numbers(needed):
        limit = f" (CUDA {graphics.cuda_limit} at most)" if graphics.cuda_limit else ""
        branch = needed.partition(".")[0]
        yield problem(
            "driver",
            "blocks",
            name,
            f"driver {graphics.driver}{limit}, torch for CUDA {software.torch_cuda}",
            _needed_driver(software.torch_cuda),
            f"sudo apt install nvidia-driver-{branch} && sudo reboot; for WSL2, NVIDIA's driver in Windows",
        )


def _needed_driver(cuda: str | None) -> str:
    driver = MIN_DRIVER.get(numbers(cuda)[0]) if cuda and numbers(cuda) else None
    return f"{driver} or newer for CUDA {cuda}" if driver else f"a driver for CUDA {cuda}"


def cards(examination: ClusterReport) -> Iterator[Finding]:
    """The inventory's cards are there, torch has code for them, and nobody else uses them."""
    for node, probe in examination.probed:
        found = [*_card_problems(node, probe)]
        yield from found
        if not found:
            measured = "; ".join(map(describe, probe.graphics.cards)) or "none"
            yield fine("cards", [node.name], measured, "the inventory's cards, free")


def describe(card: Card) -> str:
    """A card in a few words."""
    parts = [
        f"{card.model.removeprefix('NVIDIA ')} {card.free_mib / 1024:.1f} of {card.memory_mib / 1024:.1f} GiB free"
    ]
    if card.power_w is not None:
        parts.append(f"{card.power_w:.0f} W" + ("" if card.limit_w is None else f" of {card.limit_w:.0f} W"))
    if card.temperature_c is not None:
        parts.append(f"{card.temperature_c:.0f} °C")
    return ", ".join(parts)


def _card_problems(node: NodeReport, probe: NodeProbe) -> Iterator[Finding]:
    name = [node.name]
    wanted, found = node.spec.gpus, probe.graphics.cards
    if wanted is not None and len(wanted) > len(found):
        measured = f"{len(found)} cards: {', '.join(card.model for card in found) or 'none'}"
        remedy = f"correct gpus of {node.name} in the inventory, or look at nvidia-smi there"
        yield problem("cards", "blocks", name, measured, f"{len(wanted)} cards, as the inventory lists", remedy)
    # The first cards are given to the cluster, the inventory says how many.
    for given, card in zip(wanted or (), found, strict=False):
        if label_value(given.model) != label_value(card.model):
            remedy = f"correct gpus of {node.name} in the inventory; recipes place workers by these names"
            yield problem("cards", "warns", name, f"card {card.index} is {card.model}", given.model, remedy)
    cuda = numbers(probe.software.torch_cuda or "")
    for card in found if wanted is None else found[: len(wanted)]:
        yield from _capability(name, card, cuda)
        yield from _usage(name, card, probe)


def _capability(name: list[str], card: Card, cuda: tuple[int, ...]) -> Iterator[Finding]:
    has = numbers(card.capability or "")
    if not has or not cuda:
        return
    least = MIN_CAPABILITY.get(cuda[0])
    build = ".".join(map(str, cuda))
    if least is not None and has < least:
        measured = f"{card.model} (compute capability {card.capability}) and torch for CUDA {build}"
        needed = f"{'.'.join(map(str, least))} or higher: this build has no code for older cards"
        remedy = "a torch for CUDA 12.6 on every node; or leave the card out with gpus: [] in the inventory"
        yield problem("cards", "blocks", name, measured, needed, remedy)
    if has >= _BLACKWELL and cuda < _BLACKWELL_CUDA:
        measured = f"{card.model} (compute capability {card.capability}) and torch for CUDA {build}"
        yield problem("cards", "blocks", name, measured, "torch for CUDA 12.8 or newer", "there: uv sync")


def _usage(name: list[str], card: Card, probe: NodeProbe) -> Iterator[Finding]:
    others = [process for process in probe.graphics.processes if process.uuid == card.uuid]
    if card.free_mib < _FREE_SHARE * card.memory_mib or others:
        used = ", ".join(
            f"{p.name.rpartition('/')[2]} (process {p.pid}{f', {p.memory_mib} MiB' if p.memory_mib else ''})"
            for p in others
        )
        measured = f"{describe(card)}; used by {used or 'the desktop'}"
        remedy = "close what uses it there, if it is not a run of yours: nvidia-smi shows all; a desktop may keep some"
        yield problem("cards", "warns", name, measured, "90 % of its memory free: it sets the micro-batch", remedy)
    if card.temperature_c is not None and card.temperature_c >= _HOT_C:
        remedy = "clean its fans and filters, or cap its power: power_cap_w in the inventory"
        yield problem("cards", "warns", name, describe(card), f"below {_HOT_C} °C: above, it slows down", remedy)


def _reference(examination: ClusterReport, value: Callable[[NodeProbe], str | None]) -> tuple[str, str]:
    """The head's value, or the first node's that has one; and whose it is."""
    ordered = sorted(examination.probed, key=lambda pair: pair[0].spec.role != "head")
    return next(((found, node.name) for node, probe in ordered if (found := value(probe))), ("", ""))
