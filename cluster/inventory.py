"""The schema of an inventory (`cluster/*.yaml`) and the Ray labels of a node."""

import ipaddress
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from cluster.hours import duration_s, weekly_hours
from vr_core.config import Spec

# Ray follows the label syntax of Kubernetes: an optional DNS prefix and "/", then up to 63 of these characters.
_LABEL_WORD = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_RESERVED_PREFIXES = ("vr", "ray.io")


def check_address(address: str) -> str:
    """`address` itself when it is an IPv4 address that one machine can have; ValueError otherwise."""
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:
        raise ValueError("should be an IPv4 address such as 192.168.1.10") from None
    if parsed.is_unspecified or parsed.is_multicast or parsed == ipaddress.IPv4Address("255.255.255.255"):
        raise ValueError("should be the address of one machine")
    return str(parsed)


def _check_labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        prefix, slash, word = key.rpartition("/")
        if not _LABEL_WORD.fullmatch(word) or slash and not _DNS_NAME.fullmatch(prefix):
            raise ValueError(f"label {key!r}: expected letters, digits, '-', '_', '.', at most 63, as in room=study")
        if prefix in _RESERVED_PREFIXES:
            raise ValueError(f"label {key!r}: the prefix {prefix}/ is written by vr and Ray; choose another")
        if value and not _LABEL_WORD.fullmatch(value):
            raise ValueError(f"label {key}: {value!r} should be letters, digits, '-', '_', '.', at most 63")
    return labels


Address = Annotated[str, AfterValidator(check_address)]
Labels = Annotated[dict[str, str], AfterValidator(_check_labels)]
NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
Count = Annotated[int, Field(ge=1)]


def _check_duration(text: str) -> str:
    duration_s(text)
    return text


def _check_hours(text: str) -> str:
    weekly_hours(text)
    return text


def _check_ssh(options: tuple[str, ...]) -> tuple[str, ...]:
    if options and not options[0].startswith("-"):
        raise ValueError('should be options, such as ["-p", "2222"]')
    return options


def _check_absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("should be a path from / on")
    return path


Duration = Annotated[str, AfterValidator(_check_duration)]
Hours = Annotated[str, AfterValidator(_check_hours)]
Mac = Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$")]


class GpuSpec(Spec):
    """One graphics card."""

    model: Annotated[str, Field(min_length=1)]
    """As `nvidia-smi` names it; "NVIDIA " in front may be left out."""
    memory_gib: Annotated[float, Field(gt=0)]
    power_cap_w: Annotated[int, Field(ge=50)] | None = None
    """Limit set on the card when its PC joins, in watts; it stays until the driver is loaded anew. None: as it is."""

    @property
    def text(self) -> str:
        """For people: `RTX 3080 Ti 12 GiB`."""
        return f"{self.model} {self.memory_gib:g} GiB"


class CacheSpec(Spec):
    """A PC's own disk for copies of shards."""

    path: Path
    quota_gb: Annotated[float, Field(gt=0)]
    """Most that the copies may take, in units of 10^9 bytes."""


class NodeSpec(Spec):
    """One PC. What is left out is found on the PC itself when it starts."""

    name: NodeName
    address: Address
    """Its IPv4 address in the LAN; 127.0.0.1 keeps everything on this one machine."""
    role: Literal["head", "worker"] = "worker"
    gpus: tuple[GpuSpec, ...] | None = None
    """Cards given to the cluster, the first ones of the PC; `[]` gives none."""
    cpus: Count | None = None
    """Logical CPUs given to the cluster."""
    interface: Annotated[str, Field(pattern=r"^[^\s=^,]{1,15}$")] | None = None
    """Network card that carries `address`, such as enp5s0."""
    labels: Labels = {}
    memory_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory given to the cluster; all that is free where it is left out."""
    shared: Path | None = None
    """The shared folder (runs, data sets) as this PC mounts it."""
    data_roots: tuple[Path, ...] = ()
    """Further folders with data sets on this PC."""
    cache: CacheSpec | None = None
    """Where copies of shards may lie."""
    user: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")] | None = None
    """Account on this PC for ssh; by default what the user's ssh configuration says."""
    ssh: Annotated[tuple[str, ...], AfterValidator(_check_ssh)] = ()
    """Options put before the address on ssh's command line, such as `["-p", "2222"]`."""
    python: Annotated[Path, AfterValidator(_check_absolute)] | None = None
    """Python of an environment on this PC that has vr already: `vr cluster up` uses it and copies no code there."""
    mac: Mac | None = None
    """Hardware address of its network card: the PC can then be woken over the LAN."""
    owner_hours: tuple[Hours, ...] = ()
    """When the owner gives this PC to the cluster (`mon-fri 22:00-07:00`); outside, it is drained. Empty: always."""
    idle_suspend: Duration | None = None
    """Suspend this PC when it has been idle for so long (`30m`)."""
    object_store_mib: Annotated[int, Field(ge=80)] = 200
    """Ray's shared memory; training data does not pass through it, so it stays small."""


class Inventory(Spec):
    """The PCs of one cluster."""

    nodes: tuple[NodeSpec, ...]

    @model_validator(mode="after")
    def _consistent(self) -> "Inventory":
        heads = [node.name for node in self.nodes if node.role == "head"]
        if len(heads) != 1:
            raise ValueError(f"exactly one node needs `role: head`, found {', '.join(heads) or 'none'}")
        for what, values in (("name", [n.name for n in self.nodes]), ("address", [n.address for n in self.nodes])):
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise ValueError(f"the {what} {twice[0]} stands twice; each node needs its own")
        on_loopback = [n.name for n in self.nodes if n.address == "127.0.0.1"]
        if on_loopback and len(self.nodes) > 1:
            raise ValueError(f"{on_loopback[0]} has 127.0.0.1, which no other PC reaches; give its LAN address")
        return self

    @property
    def head(self) -> NodeSpec:
        """The node with `role: head`."""
        return next(node for node in self.nodes if node.role == "head")

    def at(self, addresses: Sequence[str]) -> NodeSpec | None:
        """The node that has one of `addresses`, or None."""
        return next((node for node in self.nodes if node.address in addresses), None)


def label_value(text: str) -> str:
    """`text` as the value of a Ray label: "NVIDIA GeForce RTX 3090 Ti" → "GeForce-RTX-3090-Ti"."""
    words = re.sub(r"[^A-Za-z0-9_.-]+", "-", text.strip().removeprefix("NVIDIA "))
    return words[:63].strip("-_.")


def node_labels(name: str, gpus: Sequence[GpuSpec], labels: Mapping[str, str]) -> dict[str, str]:
    """The Ray labels of a node; the user's own are taken over as they are.

    Ray's own `ray.io/accelerator-type` looks at the first card only. A label belongs to a node and not to a card, and
    Ray cannot be told which card of a node to take, so a PC with unlike cards is `vr/gpu-model=mixed`, its memory label
    is that of the smallest card, and each card is listed besides.

    Returns:
        vr/node, vr/gpu-count and, with cards, vr/gpu-model, vr/gpu-memory-gib (whole GiB), vr/gpu-<i>-model and
        vr/gpu-<i>-memory-gib.
    """
    result = {**labels, "vr/node": name, "vr/gpu-count": str(len(gpus))}
    for i, gpu in enumerate(gpus):
        result[f"vr/gpu-{i}-model"] = label_value(gpu.model)
        result[f"vr/gpu-{i}-memory-gib"] = str(round(gpu.memory_gib))
    if gpus:
        models = {label_value(gpu.model) for gpu in gpus}
        result["vr/gpu-model"] = models.pop() if len(models) == 1 else "mixed"
        result["vr/gpu-memory-gib"] = str(round(min(gpu.memory_gib for gpu in gpus)))
    return result
