"""Environments in folders that a shell would take apart: real interpreters, started from there."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster import installation
from cluster.errors import ClusterError
from cluster.installation import is_plain, make_link, require_plain_installation

ROOT = Path(__file__).parents[2]
ODD = ["My Projects", "sam's", 'the "new" one', "costs $HOME", "take #2", "a&b;c", "back\\slash", "(old)"]
WHERE = """
import json, sys
from cluster.installation import restart_through_link
restart_through_link()
from cluster.installation import installed_executable
import pydantic
print(json.dumps([sys.executable, sys.prefix, sys.argv[1:], installed_executable(), pydantic.__file__]))
"""


def environment_in(folder: Path) -> Path:
    """A virtual environment in `folder` with this one's packages; returns its interpreter."""
    (folder / "bin").mkdir(parents=True)
    home = Path(sys.base_prefix) / "bin"
    (folder / "pyvenv.cfg").write_text(f"home = {home}\n", encoding="utf-8")
    (folder / "lib").symlink_to(Path(sys.prefix) / "lib")
    python = folder / "bin" / "python"
    python.symlink_to(Path(sys.executable).resolve())
    return python


@pytest.fixture
def short(tmp_path):
    """A temporary folder with a plain path that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="vr-", dir="/tmp") as folder:
        yield Path(folder)


def run(python, code, *words, **variables):
    environment = os.environ | {key: str(value) for key, value in variables.items()}
    return subprocess.run([python, "-c", code, *words], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", ODD)
def test_what_a_shell_takes_apart_is_not_plain(name):
    said = subprocess.run(["sh", "-c", f"printf '%s\\n' /x/{name}/python"], capture_output=True, text=True)
    assert said.stdout != f"/x/{name}/python\n", "the example is none"
    assert not is_plain(f"/x/{name}/python")


@pytest.mark.parametrize("name", ["vr", "sam-smith_2.0", "a+b=c", "größe", "音楽", "~x", "a,b:c@d%e"])
def test_what_a_shell_leaves_alone_is_plain(name):
    said = subprocess.run(["sh", "-c", f"printf '%s\\n' /x/{name}/python"], capture_output=True, text=True)
    assert said.stdout == f"/x/{name}/python\n", "the example is none"
    assert is_plain(f"/x/{name}/python")


def test_a_link_stays_is_moved_with_its_environment_and_is_in_a_closed_folder(tmp_path):
    places = [tmp_path / "a b", tmp_path / "state"]
    link = make_link(tmp_path / "My env", places)
    assert link.parent == tmp_path / "state"
    assert link.readlink() == tmp_path / "My env"
    before = link.lstat().st_ino
    assert make_link(tmp_path / "My env", places) == link
    assert link.lstat().st_ino == before
    assert make_link(tmp_path / "Other env", places) != link
    assert (link.parent.stat().st_mode & 0o777) == 0o700
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere")
    assert make_link(tmp_path / "My env", places).readlink() == tmp_path / "My env"
    assert sorted(path.name for path in link.parent.iterdir() if path.name.startswith(".")) == []
    assert make_link(tmp_path / "My env", [tmp_path / "a b"]) is None


@pytest.mark.parametrize("name", ["My Projects", 'sam\'s "new" $HOME #2 größe'])
def test_a_process_from_an_odd_place_goes_on_through_a_link(tmp_path, name):
    python = environment_in(tmp_path / name / ".venv")
    done = run(python, WHERE, "one", "two words", XDG_STATE_HOME=tmp_path / "state")
    assert done.returncode == 0, done.stderr
    import json

    executable, prefix, words, installed, package = json.loads(done.stdout)
    assert Path(executable).parents[2] == tmp_path / "state" / "vr" / "python"
    assert Path(prefix).resolve() == (tmp_path / name / ".venv").resolve()
    assert words == ["one", "two words"]
    assert package.startswith(prefix), "packages are found below the link too"
    assert installed == str(python), "what outlives the link is the true place"


def test_where_the_state_folder_is_odd_too_the_temporary_folder_has_the_link(tmp_path, short):
    python = environment_in(tmp_path / "My Projects" / ".venv")
    done = run(python, WHERE, XDG_STATE_HOME=tmp_path / "My state", TMPDIR=short)
    assert f'["{short}/vr-{os.getuid()}-python/' in done.stdout


def test_without_a_plain_place_ray_is_refused_in_a_line_and_all_else_works(tmp_path):
    python = environment_in(tmp_path / "My Projects" / ".venv")
    odd = tmp_path / "My temp"
    odd.mkdir()
    code = "import sys; from jobs.cli import main; sys.argv = ['vr', *sys.argv[1:]]; main()"
    variables = {"XDG_STATE_HOME": tmp_path / "My state", "TMPDIR": odd}
    done = run(python, code, "quickstart", str(tmp_path / "quick"), **variables)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "My Projects" in done.stderr
    assert "Ray cannot start from a path with such characters" in done.stderr
    assert not (tmp_path / "quick").exists()
    assert run(python, code, "--help", **variables).returncode == 0


def test_a_plain_place_makes_no_link(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setattr(installation, "make_link", lambda *_: pytest.fail("a link was made"))
    installation.restart_through_link()
    require_plain_installation()
    monkeypatch.setattr(sys, "executable", "/home/sam smith/bin/python3")
    with pytest.raises(ClusterError, match="sam smith/bin/python3: Ray cannot start"):
        require_plain_installation()


ON_RAY = """
from cluster.installation import restart_through_link
restart_through_link()
from jobs.execution.ray_session import private_ray
with private_ray():
    import ray
    print("answer", ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=60))
"""


@pytest.mark.ray
def test_rays_workers_start_from_an_odd_place(tmp_path, short):
    python = environment_in(tmp_path / 'sam\'s "new" $HOME #2' / ".venv")
    done = run(python, ON_RAY, XDG_STATE_HOME=tmp_path / "state", TMPDIR=short)
    assert "answer 42" in done.stdout, done.stderr


def test_another_pc_is_asked_for_the_true_place_not_for_a_link_of_this_one(tmp_path, monkeypatch):
    from cluster.inventory import NodeSpec
    from cluster.remote.probe_call import python_there

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    link = make_link(tmp_path / "My env", [tmp_path / "state" / "vr" / "python"])
    users = tmp_path / "link-of-the-user"
    users.symlink_to("elsewhere")
    node = NodeSpec(name="study", address="10.0.0.2")
    for prefix, named in ((link, tmp_path / "My env"), (users, users)):
        monkeypatch.setattr(sys, "prefix", str(prefix))
        monkeypatch.setattr(sys, "executable", str(prefix / "bin" / "python3"))
        assert python_there(node)[-1] == str(named / "bin" / "python3")
