"""`vr cluster up` through real ssh in a LAN in a box: a head, a PC with an environment, one that gets code, one off."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from cluster.errors import ClusterError
from cluster.joining.join_code import parse_code
from cluster.node.head import Head, Joined
from tests.box.installs import give_uv
from tests.lan import MARK, Lan, await_true, require

pytestmark = [pytest.mark.xdist_group("box"), pytest.mark.ray]

LONG = pytest.mark.long("cluster", "jobs/commands")

STATE = ".local/state/vr"
CODE = ".local/share/vr/code"
NAMES = ("attic", "study", "den", "loft")
BROKEN = """\
#!/bin/sh
echo looking for the card
echo >&2 vr: the card is gone
exit 3
"""


@pytest.fixture(scope="module")
def lan():
    """Four PCs, loft's plug pulled; all of the cluster is ended with the box at the latest."""
    require("rsync")
    with Lan(*NAMES) as box:
        give_uv(box["den"])
        box["loft"].kill()
        write_inventory(box, "home.yaml")
        yield box


@pytest.fixture(scope="module")
def brought_up(lan):
    """What came of each PC that the one command was given, what it said, and all command lines meanwhile."""
    with Arguments(lan) as arguments:
        outcomes, said = up(lan, "home.yaml", "--yes")
    return outcomes, said, arguments.seen


def write_inventory(box, name, **pythons):
    """An inventory on attic; den has no environment of its own."""
    ready = {"study": sys.executable, "loft": sys.executable, **pythons}
    nodes = [
        {"name": host.name, "address": host.address, "cpus": 1, "gpus": []}
        | ({"role": "head"} if host.name == "attic" else {})
        | ({"python": ready[host.name]} if host.name in ready else {})
        for host in box.hosts.values()
    ]
    (box["attic"].home / name).write_text(json.dumps({"nodes": nodes}))


def switch_on(host):
    if not host.is_on:
        host.start()


def write_program(host, name, text):
    """A program in the home folder of a PC."""
    path = host.home / name
    path.write_text(text)
    path.chmod(0o755)


def up(box, *arguments, code=0):
    """What `vr cluster up` says: its JSON value by PC, and stderr."""
    argv = [sys.executable, "-m", "jobs.cli", "cluster", "up", *arguments, "--json"]
    done = box["attic"].run(argv, code=code)
    value = json.loads(done.stdout)
    return {node["name"]: node for node in [value["head"], *value["nodes"]]}, done.stderr


def states(outcomes):
    return {name: outcome["state"] for name, outcome in outcomes.items()}


def member(host, kind=Joined):
    name = "head.json" if kind is Head else f"joined-{host.name}.json"
    return kind.model_validate_json((host.home / STATE / name).read_text())


def alive(box):
    return {row["name"] for row in box["attic"].vr_json("cluster", "status")["nodes"] if row["alive"]}


class Arguments(threading.Thread):
    """The command lines of all PCs of a box while it runs; this machine sees them too."""

    def __init__(self, box):
        super().__init__(daemon=True)
        self.seen = set()
        self._mark = f"{MARK}={box.folder}\0".encode()
        self._end = threading.Event()

    def run(self):
        while not self._end.wait(0.05):
            for pid in psutil.pids():
                with contextlib.suppress(OSError):
                    if self._mark in Path(f"/proc/{pid}/environ").read_bytes():
                        self.seen.add(Path(f"/proc/{pid}/cmdline").read_text(errors="replace"))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self.join()


def test_one_command_brings_up_every_pc_that_is_on(lan, brought_up):
    outcomes, said, command_lines = brought_up
    assert states(outcomes) == {"attic": "started", "study": "joined", "den": "joined", "loft": "off"}
    assert "loft: off (no answer at 10.77.0.14:22); join later with: vr cluster up home.yaml" in said
    assert alive(lan) == {"attic", "study", "den"}

    # den runs what it was given: this checkout, in an environment that uv made there.
    python = lan["den"].run(["ps", "-o", "args=", "-p", str(member(lan["den"]).ray.pid)]).stdout.split()[0]
    assert python == f"/srv/{CODE}/.venv/bin/python"
    root = Path(__file__).parents[2]
    assert (lan["den"].home / CODE / "cluster" / "remote" / "up.py").read_text() == (
        root / "cluster" / "remote" / "up.py"
    ).read_text()
    assert not (lan["study"].home / CODE).exists()

    token = (lan["attic"].home / STATE / "token").read_text().strip()
    assert any("\0join\0" in line for line in command_lines), "nothing was watched"
    for line in command_lines:
        assert token not in line
        for word in line.split("\0"):
            with pytest.raises(ClusterError):
                parse_code(word)
    logs = [path for host in lan.hosts.values() for path in host.folder.rglob("*.log") if path.is_file()]
    assert len(logs) > 20
    for log in logs:
        assert token not in log.read_text(errors="replace"), log


@LONG
def test_the_same_command_again_changes_nothing_and_needs_no_yes(lan, brought_up):
    before = [member(lan["attic"], Head), member(lan["study"]), member(lan["den"])]
    outcomes, said = up(lan, "home.yaml")
    assert states(outcomes) == {"attic": "unchanged", "study": "unchanged", "den": "unchanged", "loft": "off"}
    assert "gets the code" not in said
    assert [member(lan["attic"], Head), member(lan["study"]), member(lan["den"])] == before
    invitations = json.loads((lan["attic"].home / STATE / "invitations.json").read_text())["invitations"]
    assert all(invitation["used_by"] for invitation in invitations), "a code outlives the command"


@LONG
def test_a_change_of_the_code_reaches_the_pc_and_ray_stays(lan, brought_up):
    before = member(lan["den"])
    stale = lan["den"].home / CODE / "cluster" / "stale.py"
    stale.write_text("gone from the checkout\n")
    (lan["den"].home / CODE / ".vr-code").write_text("another digest\n")
    outcomes, said = up(lan, "home.yaml", "--yes")
    assert outcomes["den"]["state"] == "updated"
    assert "gets the code, its environment, stays in the cluster" in said
    assert not stale.exists()
    assert member(lan["den"]) == before


def test_a_pc_that_fails_is_named_with_its_last_words_and_hinders_no_other(lan, brought_up):
    switch_on(lan["loft"])
    write_program(lan["loft"], "broken", BROKEN)
    write_inventory(lan, "broken.yaml", loft="/srv/broken")
    keys = lan["study"].home / ".ssh" / "authorized_keys"
    keys.rename(keys.with_suffix(".away"))
    try:
        outcomes, said = up(lan, "broken.yaml", "--yes", code=1)
    finally:
        keys.with_suffix(".away").rename(keys)
    assert states(outcomes) == {"attic": "unchanged", "study": "failed", "den": "unchanged", "loft": "failed"}
    assert outcomes["loft"]["log"] == ["looking for the card", "vr: the card is gone"]
    assert "loft: failed: join: exit code 3\n    looking for the card\n    vr: the card is gone\n" in said
    assert "Permission denied" in outcomes["study"]["why"]
    assert "make this work without a question: ssh 10.77.0.12 true" in said
    assert "vr: failed on study, loft, 2 of the 3 other PCs that are on" in said
    assert alive(lan) == {"attic", "study", "den"}


@LONG
def test_a_pc_that_was_off_joins_later(lan, brought_up):
    switch_on(lan["loft"])
    outcomes, _ = up(lan, "home.yaml", "--yes")
    assert states(outcomes) == {"attic": "unchanged", "study": "unchanged", "den": "unchanged", "loft": "joined"}
    assert alive(lan) == set(NAMES)


@LONG
def test_ctrl_c_ends_the_command_although_a_pc_is_not_through(lan, brought_up):
    write_program(lan["loft"], "slow", "#!/bin/sh\nexec sleep 600\n")
    write_inventory(lan, "slow.yaml", loft="/srv/slow")
    argv = [sys.executable, "-m", "jobs.cli", "cluster", "up", "slow.yaml", "--yes"]
    with lan["attic"].popen(argv, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        await_true(lambda: "sleep 600" in lan["loft"].run(["ps", "-eo", "args="]).stdout, "loft is at work")
        lan["attic"].run(["pkill", "-INT", "-f", "jobs.cli cluster up"])
        said = process.stderr.read()
    assert process.returncode == 130, said
    assert said.endswith("vr: interrupted\n")
    assert "ssh" not in lan["attic"].run(["ps", "-eo", "comm="]).stdout.replace("sshd", "")
    lan["loft"].run(["pkill", "-x", "sleep"])
    assert alive(lan) == set(NAMES)


@LONG
def test_a_drained_pc_is_left_alone(lan, brought_up):
    lan["attic"].vr("cluster", "drain", "loft", "--yes")
    outcomes, said = up(lan, "home.yaml")
    assert outcomes["loft"]["state"] == "drained"
    assert "loft is drained until" in said
    assert alive(lan) == {"attic", "study", "den"}


@LONG
def test_another_token_reaches_every_pc_that_is_on_through_ssh(lan, brought_up):
    before, token_file = member(lan["attic"], Head), lan["attic"].home / STATE / "token"
    tokens = [token_file.read_text()]
    said = lan["attic"].vr("cluster", "rotate", "home.yaml", "--yes")
    tokens.append(token_file.read_text())
    assert tokens[0] != tokens[1]
    assert alive(lan) == {"attic", "study", "den"}
    for name in ("study", "den"):
        assert (lan[name].home / STATE / f"joined-{name}.token").read_text() == tokens[1]
    assert "loft is drained until" in said
    assert re.search(r"^on loft, within 30 minutes:\n  vr cluster join \S+$", said, re.MULTILINE)
    assert "on study" not in said
    assert member(lan["attic"], Head).ports == before.ports
    again, _ = up(lan, "home.yaml")
    assert states(again) == {"attic": "unchanged", "study": "unchanged", "den": "unchanged", "loft": "drained"}


@LONG
def test_another_pc_than_the_head_is_told_where_to_run_it(lan, brought_up):
    shutil.copy(lan["attic"].home / "home.yaml", lan["study"].home / "home.yaml")
    for command in ("up", "down"):
        said = lan["study"].vr("cluster", command, "home.yaml", "--yes", code=2)
        assert "attic, the head, is another PC (10.77.0.11): run this command there" in said


def test_down_with_the_inventory_leaves_nothing_on_any_pc(lan, brought_up):
    assert "add --yes" in lan["attic"].vr("cluster", "down", "home.yaml", code=2)
    assert alive(lan) == {"attic", "study", "den"}
    said = lan["attic"].vr("cluster", "down", "home.yaml", "--yes")
    assert "Ended: study, den, " in said
    for host in lan.hosts.values():
        running = host.run(["ps", "-eo", "args="]).stdout
        assert "ray" not in running, running
        assert list((host.home / STATE).glob("joined-*.json")) == []
    assert "Nothing runs here" in lan["attic"].vr("cluster", "down", "home.yaml")
