"""Accounts that stand for PCs, on loopback addresses: the real command, the processes and sockets of what it starts."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import psutil
import pytest

from cluster.node.ray_start import MARKER
from tests.command_line import vr


@dataclass(frozen=True)
class Pc:
    """One account on one machine: its state folder."""

    home: Path

    def vr(self, *arguments, code=0):
        environment = os.environ | {"XDG_STATE_HOME": str(self.home), "COLUMNS": "200"}
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", "cluster", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == code, (
            f"vr cluster {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout + done.stderr

    def typed(self, *arguments, code=0):
        """The same command in this process, which saves its imports."""
        with pytest.MonkeyPatch.context() as account:
            account.setenv("XDG_STATE_HOME", str(self.home))
            account.setenv("COLUMNS", "200")
            said = vr("cluster", *arguments, code=code)
        return said.stdout + said.stderr

    @property
    def state(self):
        return self.home / "vr"

    @property
    def token(self):
        return (self.state / "token").read_text().strip()

    @staticmethod
    def token_of(member):
        return member.token_file.read_text().strip()

    def files(self, but=()):
        """Names in its state folder, without those that fit a pattern of `but`."""
        names = {path.name for path in self.state.iterdir()}
        return names - {name for name in names for pattern in but if fnmatch(name, pattern)}

    def record(self, kind, name):
        return kind.model_validate_json((self.state / name).read_text())


def members(member):
    """Processes of one start: in the session of its Ray, or (jobs, the keeper) with its marker in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            ours = os.getsid(process.pid) == member.ray.pid or f"{MARKER}={member.id}".encode() in environment
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


def listening(member):
    """(address, port) of every listening socket of the member, as the kernel has them."""
    wanted = {process.pid for process in members(member)}
    sockets = set()
    for line in subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines():
        if wanted & {int(pid) for pid in re.findall(r"pid=(\d+)", line)}:
            address, _, port = line.split()[3].rpartition(":")
            sockets.add((address.removeprefix("[::ffff:").strip("[]"), int(port)))
    return sockets


def await_listening(member, ports):
    deadline = time.monotonic() + 120
    while not ports <= {port for _, port in listening(member)}:
        assert time.monotonic() < deadline, f"not listening: {ports - {port for _, port in listening(member)}}"
        time.sleep(0.2)
    return listening(member)


def call(url, token=None, body=None):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, headers | {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None


def submit(head, token, entrypoint, **more):
    """Have Ray run that as a job; its name."""
    status, answer = call(f"{head.dashboard_url}/api/jobs/", token, {"entrypoint": entrypoint, **more})
    assert status == 200, answer
    return answer["submission_id"]


def await_job(head, token, job, *wanted):
    """What Ray says of the job once its status is one of those."""
    deadline = time.monotonic() + 120
    while (state := call(f"{head.dashboard_url}/api/jobs/{job}", token)[1])["status"] not in wanted:
        assert time.monotonic() < deadline, state
        time.sleep(0.1)
    return state


def stop(head, token, job):
    call(f"{head.dashboard_url}/api/jobs/{job}/stop", token, {"": ""})
    await_job(head, token, job, "STOPPED", "SUCCEEDED", "FAILED")


def job_log(head, token, job):
    return call(f"{head.dashboard_url}/api/jobs/{job}/logs", token)[1]["logs"]


def fresh_code(first):
    """What `vr cluster head` says on a PC where the head of `tests.loopback` runs; a join code is in it."""
    return first.typed("head", "--address", "127.0.0.2", "--name", "attic", "--num-cpus", "2", "--port", "0")


def code_in(said, after="to join"):
    lines = said[said.index(after) :].splitlines()
    return next(line.split()[-1] for line in lines if "vr cluster join" in line and "-" in line.split()[-1])
