"""Files that appear whole or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vr_core.files import whole_file, write_json


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"step": 1})
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"step": float("nan")})

    def half() -> None:
        with whole_file(path) as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert path.read_text() == '{\n "step": 1\n}\n'
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom vr_core.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as draft:\n"
        "    draft.write_text('new')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_the_usual_mode_and_ending(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.flac") as draft:
        assert draft.suffix == ".flac"
        assert draft.name.startswith(".")
        draft.touch()
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a.flac").stat().st_mode & 0o777 == 0o666 & ~mask


def test_who_reads_meanwhile_has_the_old_file_whole(tmp_path):
    path = tmp_path / "state.json"
    write_json(path, {"step": 1})
    with path.open() as reader:
        write_json(path, {"step": 2})
        assert json.load(reader) == {"step": 1}
    assert json.loads(path.read_text()) == {"step": 2}
