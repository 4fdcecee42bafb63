"""The page for newcomers in cluster/GUIDE.md, typed word for word at two bare PCs of a LAN in a box.

What the page cannot know is changed: addresses, and where this project is. What a box has not is put there beforehand:
packages on the machine's disk stand for the internet.
"""

import contextlib
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.box.files import PASSWORD
from tests.box.installs import give_uv_cache
from tests.lan import ROOT, Lan, require

pytestmark = [pytest.mark.xdist_group("box"), pytest.mark.long("cluster", "jobs/commands"), pytest.mark.ray]

PAGE = "## From two bare PCs to a cluster"
ADDRESSES = {"192.168.1.10": "attic", "192.168.1.11": "study"}
ANSWERS = {b"(yes/no/[fingerprint])? ": "yes", b"password: ": PASSWORD, b"[y/N]: ": "y"}
"""What the page says that one is asked, and is to answer."""
PATIENCE_S = 200
BARE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def blocks():
    """(PC, script) in the page's order."""
    text = (ROOT / "cluster" / "GUIDE.md").read_text()
    page = text[text.index(PAGE) + len(PAGE) :]
    page = page[: page.index("\n## ")]
    found, where = [], []
    for paragraph in page.split("\n\n"):
        if paragraph.startswith("    "):
            assert where, f"the page does not say where this is typed:\n{paragraph}"
            script = "\n".join(line.removeprefix("    ") for line in paragraph.splitlines())
            found += [(pc, script) for pc in where]
        elif (named := re.match(r"On (both|attic|study)\b", paragraph)) and paragraph.endswith(":"):
            where = ["attic", "study"] if named[1] == "both" else [named[1]]
    return found


@pytest.fixture(scope="module")
def lan(tmp_path_factory):
    """Two PCs with sshd and a password; no key, no uv, no checkout."""
    require("sudo", "pipx", "rsync", "sshfs", "/dev/fuse", "ssh-copy-id")
    with Lan("attic", "study") as box:
        packages = download(tmp_path_factory.mktemp("pip"))
        for host in box.hosts.values():
            shutil.rmtree(host.home / ".ssh")
            shutil.copytree(packages, host.home / ".packages")
            # Lists would name newer versions than the machine has, which nobody could fetch from a box.
            for folder in ("/var/lib/apt/lists", "/mnt"):
                host.run(["mount", "-t", "tmpfs", "tmpfs", folder])
            lines = [*give_uv_cache(), f"PATH={BARE_PATH}"]
            lines += ["PIP_NO_INDEX=1", "PIP_FIND_LINKS=$HOME/.packages", f"UV_PYTHON={system_python()}"]
            text = "".join(f"export {line}\n" for line in lines)
            (host.home / ".bashrc").write_text(f"{text}unset PYTHONPATH VIRTUAL_ENV\n")
        yield box


def system_python():
    """The PC's own Python where that is one for this project, as on Ubuntu; else the one of these tests."""
    said = subprocess.run(["/usr/bin/python3", "--version"], capture_output=True, text=True).stdout
    version = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
    return "/usr/bin/python3" if (3, 11) <= version < (3, 14) else str(Path(sys.base_prefix) / "bin" / "python3")


def download(folder):
    """uv, and what pipx wants for itself."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    wanted = ["uv", "pip", "setuptools", "wheel"]
    argv = [folder / "venv" / "bin" / "pip", "download", "--quiet", "--dest", folder / "packages", *wanted]
    subprocess.run(argv, check=True, timeout=PATIENCE_S)
    return folder / "packages"


def typed(host, script):
    """Type `script` at a new terminal of `host` and answer what is asked; what stood on the screen at the end.

    Fails where the script's last exit code is not 0 or a line of it failed.
    """
    controller, terminal = pty.openpty()
    # The terminal belongs to a process of the box, where one of this machine has no number. And no `exec`: pipx looks
    # for the shell that it was started from.
    shell = ["bash", "-c", 'source ~/.bashrc; bash -euo pipefail -c "$0"; exit $?', script]
    argv = host.entered(["setsid", "--ctty", "--wait", *shell])
    screen, answered = b"", 0
    with subprocess.Popen(
        argv,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=host.environment({"USER": "root"}),
        start_new_session=True,
    ) as process:
        os.close(terminal)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                assert time.monotonic() < deadline, f"{host.name}: {script}\n{screen.decode(errors='replace')}"
                if select.select([controller], [], [], 0.2)[0]:
                    try:
                        screen += os.read(controller, 65536)
                    except OSError:  # the last program at the terminal has ended
                        break
                for question, answer in ANSWERS.items():
                    if screen[answered:].endswith(question):
                        answered = len(screen)
                        os.write(controller, f"{answer}\n".encode())
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15) if process.poll() is None else None
            os.close(controller)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.decode(errors="replace"))
    # A full disk of the machine that carries the box is no fault of the page's.
    blocking = set(re.findall(r"^blocks +(\w+)", text, re.MULTILINE)) if " cluster doctor" in script else set()
    assert process.returncode == (1 if blocking else 0), (
        f"{host.name}: exit code {process.returncode}: {script}\n{text}"
    )
    assert blocking <= {"disk"}, text
    return text


def test_every_line_of_the_page_works_on_two_bare_pcs(lan):
    said = []
    for pc, script in blocks():
        for address, name in ADDRESSES.items():
            script = script.replace(address, lan[name].address)
        script = script.replace("git clone URL", f"git clone --quiet {ROOT}")
        start_s = time.monotonic()
        said.append((pc, script, typed(lan[pc], script)))
        print(f"$ on {pc}, {time.monotonic() - start_s:.1f} s: {script}\n{said[-1][2]}")
    [up] = [text for _, script, text in said if " cluster up " in script]
    assert "study" in up
    assert "The head runs." in up
    [status] = [text for _, script, text in said if " cluster status" in script]
    assert len(re.findall(r"\balive\b", status)) == 2
    [doctor] = [text for _, script, text in said if " cluster doctor" in script]
    assert re.search(r"\d+ block, \d+ warn, \d+ are fine", doctor)
    [down] = [text for _, script, text in said if " cluster down" in script]
    assert re.search(r"Ended: study, .*attic", down.replace("\r\n", " "))
    for host in lan.hosts.values():
        left = host.run(["ps", "-eo", "args"]).stdout
        assert "ray" not in left, left
