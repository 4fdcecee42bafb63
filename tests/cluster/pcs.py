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
from pathlib import Path

import psutil

from cluster.plan import MARKER


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

    @property
    def state(self):
        return self.home / "vr"

    @property
    def token(self):
        return (self.state / "token").read_text().strip()

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
