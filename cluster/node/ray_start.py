"""From what is asked and what was found to the exact `ray start`: arguments, environment, ports. Pure."""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from cluster.errors import ClusterError
from cluster.facts import Facts, interface_of
from cluster.inventory import Address, CacheSpec, GpuSpec, NodeName, NodeSpec, check_address, node_labels
from cluster.timings import Timings
from vr_core.config import Spec, digest

LOOPBACK = "127.0.0.1"
MARKER = "VR_CLUSTER_MEMBER"
"""Variable in the environment of every process that we start: all that descends from one start carries its id."""

Port = Annotated[int, Field(ge=1024, le=65535)]


class Ports(Spec):
    """Every port that one node listens on. Ray leaves half of them to chance; a firewall needs them fixed."""

    gcs: Port = 6379
    """Head only: the address that nodes and drivers connect to."""
    dashboard: Port = 8265
    """Head only: web page and job API, on 127.0.0.1 always."""
    client_server: Port = 10001
    """Head only: Ray Client, which we do not use and Ray always starts."""
    node_manager: Port = 6380
    object_manager: Port = 6381
    runtime_env_agent: Port = 6382
    dashboard_agent_grpc: Port = 6383
    dashboard_agent_http: Port = 52365
    metrics: Port = 6384
    """Prometheus text of the node; Ray asks for no token here."""
    dashboard_metrics: Port = 44227
    """Head only, no token."""
    autoscaler_metrics: Port = 44217
    """Head only, no token."""
    admission: Port = 6385
    """Head with a LAN address only: where a join code is traded for the token, over TLS."""
    worker_low: Port = 10002
    worker_high: Port = 10999
    """Each worker process takes one port of this range, without the last: see `again` of `ray_argv`."""

    def singles(self, *, head: bool, lan: bool = True) -> dict[str, int]:
        """Name → port of what the node itself listens on, without the range of its workers; `lan`: others may join."""
        on_head = {"gcs", "dashboard", "client_server", "dashboard_metrics", "autoscaler_metrics", "admission"}
        unused = (set() if head else on_head) | (set() if lan else {"admission"})
        values: dict[str, int] = self.model_dump(exclude={"worker_low", "worker_high", *unused})
        return values


BLOCK = 256
"""Ports in a row that a node takes when it is given a port to start from."""


def ports_from(base: int) -> Ports:
    """All ports of a node in the block of 256 from `base` on; `base` itself is the GCS port."""
    if not 1024 <= base <= 65536 - BLOCK:
        raise ClusterError(f"--port {base}: expected 1024 to {65536 - BLOCK}, or 0 for free ones")
    names = list(Ports.model_fields)[:-2]
    singles = {name: base + i for i, name in enumerate(names)}
    return Ports(**singles, worker_low=base + 16, worker_high=base + BLOCK - 1)


class NodeStart(Spec):
    """One node as it is to be started, everything resolved but free ports. Two equal ones are the same node."""

    name: NodeName
    address: Address
    interface: str
    cpus: int
    gpus: tuple[GpuSpec, ...]
    labels: dict[str, str]
    """As Ray gets them, ours included."""
    object_store_mib: int
    memory_gib: float | None = None
    """What runs may take; all that is free where it is left out."""
    data_roots: tuple[Path, ...] = ()
    """Further folders with data sets on this PC."""
    cache: CacheSpec | None = None
    """Where copies of shards may lie on this PC."""
    port_base: int | None = None
    """None: the usual ports; 0: free ones; else the first of a block."""
    head: str | None = None
    """GCS address of the head to join; None: this node is the head."""

    @property
    def loopback_only(self) -> bool:
        """Whether nothing of it may be reached from another machine."""
        return self.address == LOOPBACK


def node_start(
    facts: Facts,
    spec: NodeSpec | None = None,
    *,
    name: str | None = None,
    address: str | None = None,
    cpus: int | None = None,
    port_base: int | None = None,
    head: str | None = None,
) -> NodeStart:
    """What is asked on the command line, else the inventory, else the facts.

    Raises:
        ClusterError: an address that this machine does not have, more cards than were found, a joining node on the
            head's own address.
    """
    where = address or (spec.address if spec else LOOPBACK)
    try:
        where = check_address(where)
    except ValueError as error:
        raise ClusterError(f"--address {where}: {error}") from None
    found = interface_of(where, facts.interfaces)
    if spec and spec.interface and spec.interface != found:
        raise ClusterError(
            f"{spec.name}: the inventory says interface {spec.interface}, but {where} is on {found}; correct the file"
        )
    given = spec.gpus if spec else None
    if given is not None and len(given) > len(facts.gpus):
        raise ClusterError(
            f"{spec.name if spec else where}: the inventory lists {len(given)} GPUs, this machine shows "
            f"{len(facts.gpus)}; correct the file, or look at nvidia-smi"
        )
    if head is not None and where == LOOPBACK:
        raise ClusterError("--address 127.0.0.1: another machine cannot reach it; give this PC's LAN address")
    if head is not None and where == head.rpartition(":")[0]:
        raise ClusterError(f"{where}: is the head's own address; a node joins from another PC, or with --address")
    chosen = name or (spec.name if spec else re.sub(r"[^A-Za-z0-9_.-]+", "-", facts.hostname)[:63].strip("-_.")) or "pc"
    gpus = facts.gpus if given is None else given
    return NodeStart(
        name=chosen,
        address=where,
        interface=found,
        cpus=cpus or (spec.cpus if spec else None) or facts.cpus,
        gpus=gpus,
        labels=node_labels(chosen, gpus, spec.labels if spec else {}),
        object_store_mib=spec.object_store_mib if spec else NodeSpec.model_fields["object_store_mib"].default,
        memory_gib=spec.memory_gib if spec else None,
        data_roots=spec.data_roots if spec else (),
        cache=spec.cache if spec else None,
        port_base=port_base,
        head=head,
    )


def head_address(text: str) -> str:
    """`address:port` of a head given as "192.168.1.10" or "192.168.1.10:6379".

    Raises:
        ClusterError: neither.
    """
    address, colon, port = text.partition(":")
    try:
        address = check_address(address)
        if colon and not (port.isdecimal() and 1024 <= int(port) <= 65535):
            raise ValueError("the port should be 1024 to 65535")
    except ValueError as error:
        raise ClusterError(
            f"{text}: {error}, or a whole join code; `vr cluster head` on the head prints the line to type"
        ) from None
    if address == LOOPBACK:
        raise ClusterError(f"{text}: a head on 127.0.0.1 is for its own machine; start it with --address LAN_ADDRESS")
    return f"{address}:{port or Ports().gcs}"


def ray_argv(
    node: NodeStart,
    ports: Ports,
    temp_dir: Path,
    python: str,
    said: Mapping[str, str] | None = None,
    *,
    again: bool = False,
) -> list[str]:
    """The command that starts `node` and stays; holds no secret.

    Args:
        node: what to start.
        ports: of its services.
        temp_dir: Ray's folder.
        python: of the command.
        said: labels besides those of `node`.
        again: with the node manager on the last port of the workers' range. While a PC was away, the head's connection
            to its node manager waits ever longer before it tries again, up to 120 s, and meanwhile fails every health
            check of a node that has come back on the same port. On another one it is a new connection.
    """
    labels = {**node.labels, **(said or {})}
    argv = [python, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    if node.head is None:
        argv += [
            "--head",
            f"--port={ports.gcs}",
            f"--dashboard-host={LOOPBACK}",
            f"--dashboard-port={ports.dashboard}",
            f"--ray-client-server-port={ports.client_server}",
        ]
    else:
        argv += [f"--address={node.head}"]
    return [
        *argv,
        f"--node-ip-address={node.address}",
        f"--node-name={node.name}",
        f"--node-manager-port={ports.worker_high if again else ports.node_manager}",
        f"--object-manager-port={ports.object_manager}",
        f"--runtime-env-agent-port={ports.runtime_env_agent}",
        f"--dashboard-agent-grpc-port={ports.dashboard_agent_grpc}",
        f"--dashboard-agent-listen-port={ports.dashboard_agent_http}",
        f"--metrics-export-port={ports.metrics}",
        f"--min-worker-port={ports.worker_low}",
        f"--max-worker-port={ports.worker_high - 1}",
        f"--num-cpus={node.cpus}",
        f"--num-gpus={len(node.gpus)}",
        f"--labels={','.join(f'{key}={value}' for key, value in sorted(labels.items()))}",
        f"--object-store-memory={node.object_store_mib * 2**20}",
        f"--temp-dir={temp_dir}",
        "--log-style=record",
        "--log-color=false",
    ]


def client_environment(address: str, token_file: Path) -> dict[str, str]:
    """What every process that talks to Ray needs, be it a node, a driver or a job client."""
    environment = {
        # Said everywhere: unset, each entry point of Ray 2.60 decides for itself whether tokens are on.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        # Otherwise Ray sees that it runs under `uv run` and starts every worker through uv again.
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # PCs set up in different months have different patch levels of one Python.
        "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
    }
    if address == LOOPBACK:
        # Ray replaces 127.0.0.1 by the LAN address, and then listens on all interfaces, unless it believes that
        # clusters of several machines are out of question here. This variable is Ray's only switch for that.
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return environment


def node_environment(
    inherited: Mapping[str, str],
    node: NodeStart,
    ports: Ports,
    token_file: Path,
    member_id: str,
    timings: Timings,
    store: Path | None = None,
) -> dict[str, str]:
    """The whole environment of `ray start`, which its workers and jobs inherit.

    Every inherited `RAY_*` variable goes: one left over from another cluster (an address, a token) would win over ours.
    """
    environment = {key: value for key, value in inherited.items() if not key.startswith("RAY_")}
    environment |= client_environment(node.address, token_file)
    environment |= {
        MARKER: member_id,
        # "=" asks NCCL for exactly this name; without it eth1 would also mean eth10.
        "NCCL_SOCKET_IFNAME": f"={node.interface}",
        "GLOO_SOCKET_IFNAME": node.interface,
    }
    if node.head is None:
        environment |= {
            "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
            "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
            # A silent node is given up after 3 × (3 s + 1.5 s) instead of Ray's 65 s; one that has just joined too: Ray
            # would put its first check off by 5 s.
            "RAY_health_check_initial_delay_ms": _milliseconds(timings.health_check_every_s),
            "RAY_health_check_period_ms": _milliseconds(timings.health_check_every_s),
            "RAY_health_check_timeout_ms": _milliseconds(timings.health_check_within_s),
            "RAY_health_check_failure_threshold": "3",
        }
        if store is not None:
            environment |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(store)}
    else:
        environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = str(math.ceil(timings.head_lost_after_s))
    return environment


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))


def temp_dir(root: Path, member: Path) -> Path:
    """Ray's folder for the member whose state file is `member`, under the temporary folder `root`.

    Ray opens its folder to everybody (mode 777), sockets and shipped code in it; the folder above it is what is closed.

    Raises:
        ClusterError: the path is so long that Ray's sockets in it would pass the 107 bytes of a socket's path.
    """
    path = root / f"vr-{os.getuid()}-{digest(str(member))}" / "r"
    if len(os.fsencode(path)) > 42:
        raise ClusterError(f"{root}: too long a path for Ray's sockets (at most 20 characters); set TMPDIR=/tmp")
    return path
