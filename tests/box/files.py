"""The files that each host of a LAN in a box has of its own: home, /tmp, keys, names and addresses."""

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

PASSWORD = "box"
"""With which root logs in on every host, where a key does not."""
_HASH = "$6$vrbox$3QcueK0uaiwyX1M5IG9RUbwDDYuio9ALqSeR8PDjk0DwbNsSXXwiBGwyY4NuatZXBOpekpPqwb6.r4Z6H8oar1"
"""Of the password, by `openssl passwd -6`."""
HOME = "/srv"
"""Home folder on every host; /srv and /media are on every Debian, and empty."""
SHARED = "/media"
"""Where every host has the shared folder."""

_SSHD = """\
HostKey /etc/ssh/host_key
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication yes
SetEnv {environment}
Subsystem sftp internal-sftp
"""


def write_files(folder: Path, addresses: Mapping[str, str], environment: Mapping[str, str]) -> None:
    """Write the files of all hosts into `folder`/<name>; one key opens every host to all of them.

    Args:
        folder: of the box.
        addresses: host's name → address.
        environment: what a login over ssh finds set.
    """
    keys = folder / "keys"
    keys.mkdir()
    for name in ("client", *addresses):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", keys / name], check=True)
    public = {name: " ".join((keys / f"{name}.pub").read_text().split()[:2]) for name in addresses}
    known = "".join(f"{name},{address} {public[name]}\n" for name, address in addresses.items())
    names = "".join(f"{address} {name}\n" for name, address in addresses.items())
    settings = " ".join(f'"{key}={value}"' for key, value in environment.items())
    for name in addresses:
        etc, ssh = folder / name / "etc", folder / name / "home" / ".ssh"
        for each in (folder / name / "tmp", etc / "ssh"):
            each.mkdir(parents=True)
        (folder / name / "tmp").chmod(0o1777)
        ssh.mkdir(parents=True, mode=0o700)
        shutil.copy(keys / "client", ssh / "id_ed25519")
        shutil.copy(keys / "client.pub", ssh / "authorized_keys")
        (ssh / "known_hosts").write_text(known)
        shutil.copy(keys / name, etc / "ssh" / "host_key")
        (etc / "ssh" / "sshd_config").write_text(_SSHD.format(environment=settings))
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        (etc / "hostname").write_text(f"{name}\n")
        (etc / "passwd").write_text(_with_home(Path("/etc/passwd").read_text()))
        (etc / "shadow").write_text(f"root:{_HASH}:19000:0:99999:7:::\n")
        (etc / "shadow").chmod(0o600)


def binds(folder: Path, shared: Path | None) -> list[tuple[str, str]]:
    """(what is in the box's `folder` of one host, what it covers there), in the order to mount."""
    etc = [(str(folder / "etc" / file), f"/etc/{file}") for file in ("ssh", "hosts", "hostname", "passwd", "shadow")]
    # /tmp last: it covers the box's own folder.
    return [
        *etc,
        (str(folder / "home"), HOME),
        *([(str(shared), SHARED)] if shared else []),
        (str(folder / "tmp"), "/tmp"),
    ]


def _with_home(passwd: str) -> str:
    # ssh and sshd ask the user database, and not $HOME, for the home folder.
    lines = [f"root:x:0:0:root:{HOME}:/bin/bash" if line.startswith("root:") else line for line in passwd.splitlines()]
    return "\n".join(lines) + "\n"
