"""A LAN in a box: several PCs on one, for tests and benchmarks. Needs root, iproute2 and openssh-server.

    with Lan("attic", "study") as lan:
        lan["attic"].run(["ssh", "study", "hostname"])
        lan["attic"].vr("cluster", "head", "--address", lan["attic"].address, "--yes")
        lan["study"].cut()

A host is a network, mount, UTS and process namespace with a cable (a veth pair) to a switch (a bridge in a namespace of
its own). It has its own address, name, /etc/hosts, home, /tmp, /dev/shm, /proc and sshd, and this machine's programs.
Nothing of it has a name outside: when the first process of a host ends, the kernel ends its others and takes down its
mounts and cable. That process ends with the one that holds the box, however that ends. What the kernel leaves (folders,
cgroups) a watcher removes, which outlives both.

`python -m tests.lan NAME...` holds a box open and prints how to enter its hosts.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tests.box.cgroups import Groups
from tests.box.clock.setting import set_clock, variables
from tests.box.files import HOME, SHARED, binds, write_files
from tests.box.holding import PROCESS, held, hold, pids_beside, watch
from tests.needs import lacking

ROOT = Path(__file__).parents[1]
INTERFACE = "eth0"
PROGRAMS = ("ip", "tc", "nsenter", "unshare", "setpriv", "ssh-keygen", "/usr/sbin/sshd")
MARK = "VR_LAN"
"""In the environment of every process of a box: the box's folder."""
_BURST_BYTES = 65_536


def require(*more: str) -> None:
    """Skip the test that cannot have a box, or the programs and files `more`, and say why; in CI it fails instead."""
    wanted = (*PROGRAMS, *more)
    missing = [name for name in wanted if shutil.which(name) is None and not Path("/", name).exists()]
    reason = "not root" if os.geteuid() else f"missing {', '.join(missing)}" if missing else None
    if reason is not None:
        lacking(f"no LAN in a box here: {reason}")


def await_true(condition: Callable[[], Any], what: str, timeout_s: float = 60.0, every_s: float = 0.05) -> Any:
    """The first true value of `condition`, asked again and again."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(every_s)
    return value


class NoDevice(AssertionError):
    """There is no network card of that name."""


class Process(subprocess.Popen[str]):
    """A process on a host. An error that leaves its `with` ends it, where Popen's own would wait for its end first."""

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:
            self.terminate()
        super().__exit__(kind, *rest)


class Host:
    """One PC of a box."""

    def __init__(self, lan: "Lan", name: str, number: int) -> None:
        self.lan = lan
        self.name = name
        self.address = f"10.77.0.{10 + number}"
        self.folder = lan.folder / name
        """Its private files as this machine sees them: `home` and `tmp`."""
        self.port = f"port{number}"
        """The switch's end of its cable."""
        self._rate_mbit: float | None = None
        self._holder: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        """Its home folder, as this machine sees it; on the host it is `HOME`."""
        return self.folder / "home"

    @property
    def is_on(self) -> bool:
        """Whether it has been started and not been killed since."""
        return self._holder is not None

    @property
    def pid(self) -> int:
        """Its first process, as this machine numbers it."""
        assert self._holder is not None, f"{self.name} is off"
        return held(self._holder)

    def start(self) -> None:
        """Boot: namespaces, cable, sshd. Home and /tmp are as they were."""
        assert self._holder is None, f"{self.name} is on"
        if self.lan.clocks:
            self.clock(0)
        shared = self.lan.shared if self.lan.serves(self) else None
        plan = {"name": self.name, "binds": binds(self.folder, shared), "keep": _kept_paths()}
        self._holder = hold(
            ["--net", "--mount", "--uts", "--mount-proc"],
            [*PROCESS, "host", json.dumps(plan)],
            self.lan.groups.entrances(self.name),
            self.environment(),
        )
        self.lan.switch("link", "add", self.port, "type", "veth", "peer", "name", INTERFACE, "netns", str(self.pid))
        self.lan.switch("link", "set", self.port, "master", "lan", "up")
        # The same network card as before: the others remember its number for half a minute.
        mac = f"02:00:0a:4d:00:{int(self.address.rpartition('.')[2]):02x}"
        self.run(["ip", "link", "set", INTERFACE, "address", mac])
        for line in ("link set lo up", f"address add {self.address}/24 dev {INTERFACE}", f"link set {INTERFACE} up"):
            self.run(["ip", *line.split()])
        if self._rate_mbit is not None:
            self.rate(self._rate_mbit)
        self.run(["/usr/sbin/sshd", "-f", "/etc/ssh/sshd_config"])
        if shared is None:
            server = next(host for host in self.lan.hosts.values() if self.lan.serves(host))
            self.run(["sshfs", f"{server.name}:{SHARED}", SHARED, "-o", "reconnect,ServerAliveInterval=5"])

    def run(
        self,
        argv: Sequence[str],
        *,
        code: int | None = 0,
        env: Mapping[str, str] | None = None,
        stdin: str = "",
        timeout_s: float = 280.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` on the host; fails where it does not exit with `code` (None: whatever it exits with)."""
        done = subprocess.run(
            self.entered(argv),
            env=self.environment(env),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        said = f"{self.name}: {' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
        assert code is None or done.returncode == code, said
        return done

    def popen(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any) -> Process:
        """Start `argv` on the host. Ending what this gives sends it SIGTERM; at the latest it ends with the host."""
        return Process(self.entered(argv), env=self.environment(env), text=True, **options)

    def vr(self, *arguments: str, code: int | None = 0, stdin: str = "", timeout_s: float = 280.0) -> str:
        """What `vr ARGUMENTS` of the tree under test prints on the host, stdout before stderr."""
        done = self.run([sys.executable, "-m", "jobs.cli", *arguments], code=code, stdin=stdin, timeout_s=timeout_s)
        return done.stdout + done.stderr

    def vr_json(self, *arguments: str, code: int | None = 0) -> Any:
        """The JSON value that `vr ARGUMENTS --json` prints on the host."""
        return json.loads(self.run([sys.executable, "-m", "jobs.cli", *arguments, "--json"], code=code).stdout)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a login on the host has, and what a command from here gets."""
        return self.lan.environment() | dict(more or {})

    def kill(self) -> None:
        """Pull the plug: everything on the host ends at once, and the others hear nothing of it."""
        assert self._holder is not None, f"{self.name} is off"
        self.cut()  # or the kernel would still say goodbye for every connection
        os.kill(self.pid, signal.SIGKILL)
        self._holder.wait()
        self._holder = None
        # The kernel would keep the network namespace, and the cable with it, until its last open connection times out;
        # without one it may have been quicker.
        with contextlib.suppress(NoDevice):
            self.lan.switch("link", "delete", self.port)

    def cut(self) -> None:
        """Pull the cable out of the switch."""
        self.lan.switch("link", "set", self.port, "down")

    def mend(self) -> None:
        """Put the cable back."""
        self.lan.switch("link", "set", self.port, "up")

    def rate(self, mbit: float | None) -> None:
        """Let the cable carry so much in each direction; None: whatever it can."""
        self._rate_mbit = mbit
        shape = ["tbf", "rate", f"{mbit}mbit", "burst", str(_BURST_BYTES), "latency", "50ms"] if mbit else ["noqueue"]
        for target, device in ((str(self.pid), INTERFACE), (self.lan.switch_pid, self.port)):
            _run(["nsenter", f"--target={target}", "--net", "tc", "qdisc", "replace", "dev", device, "root", *shape])

    def cpu(self, cores: float | None, pids: Iterable[int] = ()) -> None:
        """Give the host so many cores together (None: all), or only its processes `pids` and what they start.

        Ray's own processes need theirs to answer the head in time: a slow PC is one whose workers are slow. These get
        theirs first: no card of a PC waits for the processes of others, as a core of this machine would.
        """
        chosen = list(pids)
        part = f"{self.name}.slow" if chosen else self.name
        self.lan.groups.cpu(part, cores, first=bool(chosen))
        self.lan.groups.move(part, chosen)

    def clock(self, offset_days: int) -> None:
        """Set the wall clock of the host's Python processes so many days ahead, in a box with `clocks`.

        Files keep this machine's times, as on a share.
        """
        set_clock(self.home, offset_days)

    def memory(self, limit_bytes: int | None) -> None:
        """Let the host's processes together have so much memory; None: all there is."""
        self.lan.groups.memory(self.name, limit_bytes)

    def pids(self) -> list[int]:
        """All processes of the host, as this machine numbers them; the first one first."""
        return pids_beside(self.pid)

    def entered(self, argv: Sequence[str]) -> list[str]:
        """The command line of this machine that runs `argv` on the host, for who starts it by himself."""
        # Into the cgroups first: what is started from here would not count as the host's otherwise.
        entrances = self.lan.groups.entrances(self.name)
        into = "".join(f'echo $$ > "{entrance}"; ' for entrance in entrances) + 'exec "$@"'
        namespaces = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--pid"]
        return ["sh", "-c", into, "sh", *namespaces, "env", "-C", HOME, "setpriv", "--pdeathsig=TERM", *argv]


class Lan:
    """The box: a context manager; hosts by name, booted in order, all gone at the end."""

    def __init__(
        self,
        *names: str,
        shared: Literal["bind", "sshfs"] = "bind",
        shared_bytes: int | None = None,
        clocks: bool = False,
    ) -> None:
        """Nothing is made before the box is entered, from a thread that outlives it.

        Args:
            names: of the hosts; their addresses are 10.77.0.11 and so on.
            shared: how the hosts have `SHARED`: as one folder of this machine, or the first host's over sshfs.
            shared_bytes: how much goes into it, in memory; None: what this machine's disk has.
            clocks: whether each host's Python processes have a wall clock of their own, which `Host.clock` sets.
        """
        self.names = names
        self.hosts: dict[str, Host] = {}
        self._shared_by = shared
        self._shared_bytes = shared_bytes
        self.clocks = clocks
        self._switch: subprocess.Popen[bytes] | None = None

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> "Lan":
        # Short: it is part of the paths of sockets.
        self.folder = Path(tempfile.mkdtemp(prefix="vr-lan-", dir="/tmp"))
        self.shared = self.folder / "shared"
        """The shared folder, as this machine sees it."""
        self.groups = Groups(self.folder.name)
        with contextlib.ExitStack() as stack:
            self._watcher = watch(self.folder, self.groups)
            stack.callback(self._close)
            self.shared.mkdir()
            if self._shared_bytes is not None:
                _run(["mount", "-t", "tmpfs", "-o", f"size={self._shared_bytes}", "tmpfs", str(self.shared)])
            waits = ["sh", "-c", "echo ready; exec sleep infinity"]
            self._switch = hold(["--net"], waits, self.groups.entrances("switch"), self.environment())
            self.switch("link", "add", "lan", "type", "bridge")
            self.switch("link", "set", "lan", "up")
            self.hosts = {name: Host(self, name, number) for number, name in enumerate(self.names, start=1)}
            write_files(self.folder, {host.name: host.address for host in self.hosts.values()}, self.environment())
            for host in self.hosts.values():
                host.start()
            self._ending = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    @property
    def on(self) -> list[Host]:
        """The hosts whose plug is in, in order."""
        return [host for host in self.hosts.values() if host.is_on]

    def serves(self, host: Host) -> bool:
        """Whether `host` has the shared folder on its own disk."""
        return self._shared_by == "bind" or host.name == self.names[0]

    @property
    def switch_pid(self) -> str:
        """A process in the network namespace of the switch."""
        assert self._switch is not None, "the box is not open"
        return str(held(self._switch))

    def switch(self, *arguments: str) -> str:
        """What `ip ARGUMENTS` prints at the switch."""
        return _run(["nsenter", f"--target={self.switch_pid}", "--net", "ip", *arguments])

    def queue(self, port: str) -> str:
        """The kind of queue that one of the switch's ports has: `tbf` where the cable has a rate."""
        told = _run(["nsenter", f"--target={self.switch_pid}", "--net", "tc", "qdisc", "show", "dev", port])
        return told.split()[1]

    def environment(self) -> dict[str, str]:
        """Variables of every process of the box; of this one's, only a few are handed on."""
        kept = ("LANG", "CI", "VR_TEST_SESSION", "OMP_NUM_THREADS", "UV_CACHE_DIR")
        path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        own = {"PATH": path, "HOME": HOME, "PYTHONPATH": str(ROOT), "COLUMNS": "200", MARK: str(self.folder)}
        if self.clocks:
            own |= variables(HOME, ROOT)
        return {name: os.environ[name] for name in kept if name in os.environ} | own

    def _close(self) -> None:
        for holder in (*(host._holder for host in self.hosts.values()), self._switch):
            if holder is not None:
                holder.kill()  # and with it, by --kill-child, what it holds
                holder.wait()
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        assert self._watcher.wait() == 0, f"{self.folder} or a cgroup of that name is left"


def _run(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0 and ("Cannot find device" in done.stderr or "No such device" in done.stderr):
        raise NoDevice(done.stderr)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout


def _kept_paths() -> list[str]:
    """Folders that must be found on a host where they are here, even below its own /tmp: CI has all of them there."""
    return sorted({str(ROOT), sys.prefix, sys.base_prefix})


def main(names: Sequence[str]) -> None:
    """Hold a box open until Ctrl-C."""
    with Lan(*(names or ["attic", "study"])) as lan, contextlib.suppress(KeyboardInterrupt):
        for host in lan.hosts.values():
            print(f"{host.name:10} {host.address:12} nsenter -t {host.pid} -n -m -u -p env -C {HOME} bash")
        print("Ctrl-C ends the box", flush=True)
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
