"""Files of other programs: read without running anything, in bounded memory, refused by what they are."""

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.foreign_checkpoints import roformer
from vr_core.errors import WeightsError
from vr_core.importing.checkpoint import read_checkpoint

PLENTY = 1 << 40


def test_safetensors_and_the_format_before_zip_are_read(tmp_path: Path) -> None:
    state = roformer("bs")
    safetensors.torch.save_file({n: t.contiguous() for n, t in state.items()}, tmp_path / "a")
    torch.save(state, tmp_path / "b", _use_new_zipfile_serialization=False)
    for name in "ab":
        assert all(torch.equal(t, state[n]) for n, t in read_checkpoint(tmp_path / name, PLENTY).items())


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("plain", [True, False])
def test_a_pickle_that_would_run_code_runs_none(tmp_path: Path, plain: bool) -> None:
    mark = tmp_path / "ran"
    held = {"state_dict": roformer("bs"), "extra": Evil(mark)}
    if plain:
        (tmp_path / "evil").write_bytes(pickle.dumps(held))
    else:
        torch.save(held, tmp_path / "evil")
    with pytest.raises(WeightsError, match="nothing of it was run"):
        read_checkpoint(tmp_path / "evil", PLENTY)
    assert not mark.exists()
    torch.load(tmp_path / "evil", weights_only=False) if not plain else pickle.loads((tmp_path / "evil").read_bytes())
    assert mark.exists(), "it would have"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.98])
def test_a_part_of_a_file_is_damaged_and_no_traceback(tmp_path: Path, part: float, zipped: bool) -> None:
    torch.save(roformer("bs"), tmp_path / "x", _use_new_zipfile_serialization=zipped)
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[: int(len(data) * part)])
    with pytest.raises(WeightsError, match="damaged|no checkpoint"):
        read_checkpoint(tmp_path / "x", PLENTY)


def test_other_things_are_refused_by_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello there, this is no checkpoint")
    torch.save([1, 2], tmp_path / "list")
    with zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"0" * 1_000_000)
    for name, words in (
        ("text", "no checkpoint"), ("list", "holds no tensors by name"), ("zip", "a compressed archive"),
        ("none", "cannot be read"), (".", "a folder"),
    ):  # fmt: skip
        with pytest.raises(WeightsError, match=words):
            read_checkpoint(tmp_path / name, PLENTY)


def test_a_file_larger_than_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(12 * 10**9)  # takes no space
    # A file is in memory three times at the end.
    with pytest.raises(WeightsError, match=r"holds 12\.0 GB, and this PC has 35\.0 GB of memory free"):
        read_checkpoint(tmp_path / "large", 35 * 10**9)


def test_it_needs_memory_of_about_the_files_size(tmp_path: Path) -> None:
    state = roformer("bs", dim=192, depth=2, heads=8)
    torch.save(state, tmp_path / "theirs.ckpt")
    size = (tmp_path / "theirs.ckpt").stat().st_size
    said = (
        "import resource, sys; from pathlib import Path; from vr_core.importing.convert import convert\n"
        "from vr_core.importing.said import Said\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        "convert(Path(sys.argv[1]), Said(('vocals',), 441), Path(sys.argv[2]), licence=None, available_bytes=1 << 40,\n"
        "        progress=lambda _: None)\n"
        "print(peak() - before)\n"
    )
    argv = [sys.executable, "-c", said, str(tmp_path / "theirs.ckpt"), str(tmp_path / "ours.safetensors")]
    grown = int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert size > 50e6
    assert grown < 3.5 * size, grown / size
