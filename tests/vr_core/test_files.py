"""Files that appear whole or not at all."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vr_core.errors import LinkRefused
from vr_core.files import clear_drafts, open_below, whole_file, write_json


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


def test_drafts_of_killed_processes_are_cleared_and_nothing_else(tmp_path):
    names = [
        ".0123abcd.state.json",
        ".89abcdef.notice.json",
        ".hidden",
        ".0123abcd",
        "state.json",
        ".0123ABCD.state.json",
    ]
    for name in names:
        (tmp_path / name).touch()
    clear_drafts(tmp_path, {"state.json"})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    clear_drafts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])
    clear_drafts(tmp_path / "none")


@pytest.mark.parametrize("name", ["state.json", "deep/state.json"])
def test_what_is_written_below_a_root_follows_no_link(tmp_path, name):
    root, victim = tmp_path / "runs", tmp_path / "home"
    (root / name).parent.mkdir(parents=True)
    victim.mkdir()
    write_json(root / name, {"step": 1}, root=root)
    assert json.loads((root / name).read_text()) == {"step": 1}
    with open_below(root, root / name, os.O_WRONLY | os.O_APPEND) as file:
        file.write(b"more")
    assert (root / name).read_text().endswith("}\nmore")
    (victim / "state.json").write_text("mine")
    (root / name).unlink()
    (root / name).symlink_to(victim / "state.json")
    with pytest.raises(LinkRefused, match=f"{root / name}: is a link"), open_below(root, root / name, os.O_WRONLY):
        pass
    write_json(root / name, {"step": 2}, root=root)
    assert not (root / name).is_symlink(), "one in the place of the file is replaced"
    if "/" in name:
        (root / name).unlink()
        (root / "deep").rmdir()
        (root / "deep").symlink_to(victim)
        with pytest.raises(LinkRefused, match=f"{root / 'deep'}: is a link"):
            write_json(root / name, {"step": 3}, root=root)
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"state.json": "mine"}


def test_links_above_the_root_are_the_users(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    write_json(tmp_path / "runs" / "a.json", {"a": 1}, root=tmp_path / "runs")
    assert (tmp_path / "disk" / "a.json").is_file()


def test_a_pipe_in_the_place_of_a_file_is_not_written_to(tmp_path):
    os.mkfifo(tmp_path / "events.jsonl")
    with pytest.raises(OSError, match="events.jsonl"), open_below(tmp_path, tmp_path / "events.jsonl", os.O_WRONLY):
        pass
