"""What is handed to ssh and rsync, and what their words mean; the real ones are in test_up_on_ray.py."""

import contextlib
import shlex
import subprocess
import sys
import threading
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterError
from cluster.inventory import NodeSpec
from cluster.remote.probe_call import Unanswered, ask, python_there, run_by_ssh
from cluster.remote.shell import Stopped, Unreached, copy, rsync_argv, run, ssh_argv, unreached

STUDY = NodeSpec(name="study", address="192.168.1.11", user="sam", ssh=("-p", "2222"))
PLAIN = NodeSpec(name="den", address="192.168.1.12")
CODE = PurePosixPath(".local/share/vr/code")
TIMED_OUT = "ssh: connect to host 192.168.1.11 port 2222: Connection timed out"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program of this name first on the path: a shell script with the given text."""

    def put(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


def test_the_inventorys_options_stand_before_the_address_and_behind_ours():
    argv = ssh_argv(STUDY, ["uname", "-a"])
    assert argv[-5:] == ["-p", "2222", "sam@192.168.1.11", "--", "uname -a"]
    # Of an option that is given twice ssh takes the first.
    assert argv.index("BatchMode=yes") < argv.index("-p")
    assert ssh_argv(PLAIN, ["true"])[-3:] == ["192.168.1.12", "--", "true"]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=4))
def test_the_other_pcs_shell_gets_every_word_as_it_is(words):
    *_, command = ssh_argv(PLAIN, [sys.executable, *words])
    assert shlex.split(command) == [sys.executable, *words]


@pytest.mark.parametrize("word", ["it's $HOME", "a  b", '"', "*", "-n", "`id`", "a\nb", "", "é"])
def test_a_shell_agrees(word):
    *_, command = ssh_argv(PLAIN, ["printf", "%s.", word])
    assert subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout.decode() == f"{word}."


def test_rsync_goes_the_same_way_as_ssh(program, tmp_path):
    odd = NodeSpec(name="den", address="192.168.1.12", user="sam", ssh=("-o", "ProxyCommand=nc -x 'a' %h %p", "-p2222"))
    # The real rsync takes its --rsh apart and starts it.
    program("ssh", f'printf "%s\\n" "$@" >{tmp_path}/given; exit 255')
    with contextlib.suppress(Unreached):  # rsync says 255 or 12, by what it notices first
        copy(odd, tmp_path, CODE, keep=(".venv",), timeout_s=20)
    given_words = (tmp_path / "given").read_text().splitlines()
    through = ssh_argv(odd, ["true"])[1:-3]
    assert given_words[: len(through)] == through
    argv = rsync_argv(odd, tmp_path, CODE, (".venv", "uv.lock"))
    assert argv[-3:] == ["--", f"{tmp_path}/", "sam@192.168.1.12:.local/share/vr/code/"]
    assert {"--delete", "--exclude=/.venv", "--exclude=/uv.lock"} <= set(argv)


@pytest.mark.parametrize(
    ("stderr", "reason", "kind"),
    [
        (TIMED_OUT, "no answer at 192.168.1.11:2222", "off"),
        ("ssh: connect to host 192.168.1.11 port 22: No route to host\r\n", "no answer at 192.168.1.11:22", "off"),
        # Through a jump host: its words come first.
        (
            f"channel 0: open failed\n{TIMED_OUT}\nConnection closed by UNKNOWN port 65535\n",
            "no answer at 192.168.1.11:2222",
            "off",
        ),
        (
            "ssh: connect to host 192.168.1.11 port 22: Connection refused",
            "ssh: connect to host 192.168.1.11 port 22: Connection refused",
            "refused",
        ),
        (
            "Warning: Permanently added\nsam@192.168.1.11: Permission denied (publickey).\n",
            "sam@192.168.1.11: Permission denied (publickey).",
            "refused",
        ),
        ("Host key verification failed.", "Host key verification failed.", "refused"),
        ("", "ssh failed", "refused"),
        ("Timeout, server 192.168.1.11 not responding.", "Timeout, server 192.168.1.11 not responding.", "silent"),
        ("x: Connection closed by remote host", "x: Connection closed by remote host", "silent"),
    ],
)
def test_a_pc_that_is_off_is_told_from_one_that_does_not_let_us_in(stderr, reason, kind):
    error = unreached(stderr)
    assert (str(error), error.kind) == (reason, kind)


@pytest.mark.parametrize(("stderr", "kind"), [(TIMED_OUT, "off"), ("Host key verification failed.", "refused")])
def test_who_asks_a_probe_by_ssh_knows_why_it_does_not_answer(program, stderr, kind):
    program("ssh", f"echo {shlex.quote(stderr)} >&2; exit 255")
    with pytest.raises(Unanswered) as caught:
        ask(run_by_ssh, python_there, STUDY, {"do": "node"}, 20.0)
    assert (caught.value.kind, str(caught.value)) == (kind, str(unreached(stderr)))


def test_what_is_given_on_stdin_is_no_argument_and_what_comes_back_is_whole(program, tmp_path):
    program("ssh", f'printf "%s\\n" "$@" >{tmp_path}/given; cat; echo said >&2; exit 3')
    text = "secret\n" * 50_000  # more than a pipe holds
    result = run(STUDY, ["true"], stdin=text, timeout_s=20)
    assert (result.code, result.stdout, result.stderr) == (3, text, "said\n")
    assert "secret" not in (tmp_path / "given").read_text()


def test_a_pc_that_goes_silent_is_given_up_and_what_the_user_stops_ends(program):
    program("ssh", "exec sleep 600")
    with pytest.raises(Unreached, match="no answer in"):
        run(STUDY, ["true"], timeout_s=0.3)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        run(STUDY, ["true"], timeout_s=600, stop=stop)


def test_without_ssh_or_rsync_the_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="^ssh: not on this PC; type: sudo apt install openssh-client"):
        run(STUDY, ["true"], timeout_s=5)
    with pytest.raises(ClusterError, match="^rsync: not on this PC"):
        copy(STUDY, Path(tmp_path), CODE, timeout_s=5)
