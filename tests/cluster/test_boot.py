"""PCs whose plug is pulled are back in the cluster after they have booted: a real systemd, for one user, on each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.node.service import UNIT
from tests.lan import Lan, await_true, require

pytestmark = [pytest.mark.xdist_group("box"), pytest.mark.long("cluster"), pytest.mark.ray]

SYSTEMD = "/lib/systemd/systemd"
RUNTIME = "/run/user/0"
CGROUPS = f"""
mkdir -p /run/systemd/system {RUNTIME} && chmod 700 {RUNTIME}
if [ "$2" = v2 ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    own=/sys/fs/cgroup/$1
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir /sys/fs/cgroup/unified /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    own=/sys/fs/cgroup/systemd/$1
fi
mkdir -p "$own"
echo $$ > "$own/cgroup.procs"
exec unshare --cgroup {SYSTEMD} --user
"""
"""What a PC has of systemd when a user has logged in: its sign, the user's folder, and the user's manager. The cgroups
are in a namespace of their own, below one of the box's names, or they would be this machine's."""


managers = []


def boot(host):
    """Let systemd manage what the user of `host` has enabled."""
    version = "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1"
    argv = ["bash", "-ec", CGROUPS, "bash", f"{host.lan.folder.name}-{host.name}", version]
    managers.append(host.popen(argv, env={"XDG_RUNTIME_DIR": RUNTIME}, stdin=subprocess.DEVNULL))
    await_true(lambda: systemctl(host, "is-system-running", code=None).strip() == "running", f"systemd of {host.name}")


def systemctl(host, *arguments, code=0):
    return host.run(["systemctl", "--user", *arguments], env={"XDG_RUNTIME_DIR": RUNTIME}, code=code).stdout


@pytest.fixture(scope="module")
def lan():
    """A head and a node, each with a systemd; lingering is what a box does not have."""
    require(SYSTEMD, "rsync")
    with Lan("attic", "study") as box:
        try:
            nodes = [{"name": h.name, "address": h.address, "cpus": 1, "gpus": []} for h in box.hosts.values()]
            nodes[0]["role"] = "head"
            nodes[1]["python"] = sys.executable
            (box["attic"].home / "home.yaml").write_text(json.dumps({"nodes": nodes}))
            for host in box.hosts.values():
                (host.home / ".bashrc").write_text(f"export XDG_RUNTIME_DIR={RUNTIME}\n")
                boot(host)
            yield box
        finally:
            leftover = [path for path in Path("/sys/fs/cgroup").glob(f"**/{box.folder.name}-*") if path.is_dir()]
    for manager in managers:
        manager.wait()
    for group in leftover:
        for folder in [*sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True), group]:
            await_true(lambda folder=folder: removed(folder), f"{folder} is empty")


def removed(folder):
    """Whether the cgroup is gone; the kernel needs a moment to end what was in it."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def alive(lan):
    done = lan["attic"].run([sys.executable, "-m", "jobs.cli", "cluster", "status", "--json"], code=None)
    if done.returncode != 0:
        return set()
    return {row["name"] for row in json.loads(done.stdout)["nodes"] if row["alive"]}


def supervisor(host):
    pids = host.run(["pgrep", "-f", "cluster.node.supervise"], code=None).stdout.split()
    return int(pids[0]) if pids else None


def test_up_hands_both_pcs_to_systemd(lan):
    said = (
        lan["attic"]
        .run(
            [sys.executable, "-m", "jobs.cli", "cluster", "up", "home.yaml", "--yes"], env={"XDG_RUNTIME_DIR": RUNTIME}
        )
        .stderr
    )
    assert "study   10.77.0.12: joins, comes back after each boot" in said
    for host in lan.hosts.values():
        assert systemctl(host, "is-enabled", UNIT) == "enabled\n"
        assert systemctl(host, "is-active", UNIT) == "active\n"
    assert "sudo loginctl enable-linger" in said, "a box has no logind, and that is said"
    assert alive(lan) == {"attic", "study"}


def test_a_supervisor_that_was_killed_is_started_again(lan):
    study = lan["study"]
    before = supervisor(study)
    study.run(["kill", "-KILL", str(before)])
    await_true(lambda: supervisor(study) not in (before, None), "another supervisor", 120)
    await_true(lambda: alive(lan) == {"attic", "study"}, "both are there", 120)


def test_after_a_power_cut_both_are_back_without_a_word(lan):
    for host in lan.hosts.values():
        host.kill()
    for host in lan.hosts.values():
        host.start()
        boot(host)
    await_true(lambda: alive(lan) == {"attic", "study"}, "both are there", 180)


def test_what_was_taken_down_stays_down(lan):
    lan["attic"].vr("cluster", "down", "home.yaml", "--yes")
    for host in lan.hosts.values():
        await_true(lambda host=host: systemctl(host, "is-active", UNIT, code=None) == "inactive\n", "the unit ends")
        assert supervisor(host) is None
    lan["study"].kill()
    lan["study"].start()
    boot(lan["study"])
    await_true(lambda: systemctl(lan["study"], "is-active", UNIT, code=None) == "inactive\n", "nothing to start")
    assert supervisor(lan["study"]) is None
