import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster.node.processes import ProcessRef, alive, end, family, spawn
from cluster.node.ray_start import MARKER

# A child, a grandchild in a session of its own whose parent ends, and a name that would confuse a reader of /proc.
TREE = """
import ctypes, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
sleep = "[sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True"
code = f"import subprocess, sys; subprocess.Popen({sleep})"
subprocess.run([sys.executable, "-c", code])
ctypes.CDLL(None).prctl(15, b"a) S 1 (b", 0, 0, 0)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def tree(tmp_path):
    """A process with an own child and an orphaned grandchild, started under the marker `tree`."""
    log = tmp_path / "tree.log"
    ref = spawn("tree", [sys.executable, "-c", TREE], os.environ | {MARKER: "tree"}, log, tmp_path)
    deadline = time.monotonic() + 60
    while "ready" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "ready" in log.read_text()
    yield ref
    end([ref], "tree", grace_s=1.0)


def test_a_process_is_known_by_more_than_its_number(tree):
    assert alive(tree)
    assert not alive(tree.model_copy(update={"start_ticks": tree.start_ticks + 1}))
    assert not alive(tree.model_copy(update={"boot_id": "another"}))
    assert os.getsid(tree.pid) == tree.pid, "no closing terminal ends it"


def test_a_family_holds_children_and_orphans_and_no_stranger(tree, tmp_path):
    stranger = spawn("stranger", ["sleep", "600"], os.environ | {MARKER: "tree2"}, tmp_path / "log", tmp_path)
    found = {process.pid for process in family([tree], "tree")}
    assert tree.pid in found
    assert len(found) == 3
    end([tree], "tree", grace_s=5.0)
    assert not alive(tree)
    assert family([tree], "tree") == []
    assert alive(stranger)
    end([stranger], "tree2", grace_s=5.0)


def test_orphans_are_ended_when_their_parent_is_gone_already(tree):
    psutil.Process(tree.pid).kill()
    psutil.wait_procs([psutil.Process(tree.pid)] if psutil.pid_exists(tree.pid) else [], timeout=5)
    assert not alive(tree)
    assert len(family([tree], "tree")) == 2
    end([tree], "tree", grace_s=5.0)
    assert family([tree], "tree") == []


def test_what_ignores_a_polite_request_is_ended_all_the_same(tmp_path):
    log = tmp_path / "log"
    argv = ["sh", "-c", "trap '' TERM; echo ready; sleep 600 & wait; sleep 600"]
    ref = spawn("stubborn", argv, os.environ | {MARKER: "stubborn"}, log, tmp_path)
    deadline = time.monotonic() + 60
    while "ready" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    end([ref], "stubborn", grace_s=0.2)
    assert family([ref], "stubborn") == []


def test_one_that_wrote_over_its_environment_is_still_known_when_its_parent_is_gone(tmp_path):
    code = "from ray._raylet import setproctitle; import time; setproctitle('x'); print('ready', flush=True); "
    code += "time.sleep(600)"
    script = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {code!r}]); time.sleep(600)"
    log = tmp_path / "log"
    # The marker first, so that the new name lies over it.
    ref = spawn("ray", [sys.executable, "-c", script], {MARKER: "agent", **os.environ}, log, tmp_path)
    deadline = time.monotonic() + 60
    while "ready" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    (agent,) = psutil.Process(ref.pid).children()
    assert b"agent" not in Path(f"/proc/{agent.pid}/environ").read_bytes()
    psutil.Process(ref.pid).kill()
    psutil.wait_procs([psutil.Process(ref.pid)] if psutil.pid_exists(ref.pid) else [], timeout=5)
    assert agent in family([ref], "agent")
    end([ref], "agent", grace_s=5.0)
    assert not agent.is_running() or agent.status() == psutil.STATUS_ZOMBIE


NEGLIGENT = """
import os, sys, time
from pathlib import Path
from cluster.node.processes import spawn
log = Path(sys.argv[1])
print(spawn("child", ["sleep", "600"], os.environ, log, log.parent).model_dump_json(), flush=True)
time.sleep(600)
"""


@pytest.mark.timeout(60)
def test_a_process_that_its_living_parent_has_not_cleared_away_has_ended(tmp_path):
    """As those that the service after a boot has started; waiting for the parent would take `grace_s`."""
    argv = [sys.executable, "-c", NEGLIGENT, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as parent:
        child = ProcessRef.model_validate_json(parent.stdout.readline())
        end([child], "child", grace_s=600.0)
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
        parent.kill()
