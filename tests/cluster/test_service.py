import os
import shutil
import subprocess

import pytest

from cluster.errors import ClusterError
from cluster.node.service import UNIT, unit_file, unit_text
from tests.needs import lacking

ARGV = ["/home/sam smith/100% of $HOME/python", "-m", "$jobs", "service", "--run"]
ENVIRONMENT = {"PATH": '/usr/bin:/home/"sam"', "XDG_STATE_HOME": "/state\\x", "RAY_AUTH_TOKEN": "secret", "TMPDIR": ""}


def verify(unit, home):
    environment = os.environ | {"XDG_RUNTIME_DIR": str(home), "HOME": str(home)}
    argv = ["systemd-analyze", "verify", "--user", "--man=no", str(unit)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    return done.returncode, done.stderr.strip()


def test_systemd_takes_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        lacking("no systemd-analyze (apt install systemd)")
    program = tmp_path / "100% of $HOME" / "python"
    program.parent.mkdir()
    program.symlink_to("/usr/bin/true")
    unit = tmp_path / UNIT
    unit.write_text(unit_text([str(program), *ARGV[1:]], ENVIRONMENT))
    assert verify(unit, tmp_path) == (0, "")
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=on-filure"))
    assert "on-filure" in verify(unit, tmp_path)[1], "it has read the file"


def test_names_with_spaces_and_signs_reach_the_program_as_they_are():
    lines = unit_text(ARGV, ENVIRONMENT).splitlines()
    assert 'ExecStart="/home/sam smith/100%% of $HOME/python" "-m" "$$jobs" "service" "--run"' in lines
    assert [line for line in lines if line.startswith("Environment=")] == [
        'Environment="PATH=/usr/bin:/home/\\"sam\\""',
        'Environment="XDG_STATE_HOME=/state\\\\x"',
    ]


def test_a_line_break_cannot_add_a_line_to_the_unit():
    with pytest.raises(ClusterError, match="control character"):
        unit_text(["/python\nExecStartPre=x"], {})


def test_the_unit_lies_where_systemd_looks(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert unit_file() == tmp_path / "systemd" / "user" / "vr-cluster.service"
