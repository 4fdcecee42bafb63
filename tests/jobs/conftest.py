"""A small real data set: invented songs, prepared with a short STFT so that a model of a few thousand weights fits.

What imports torch is imported by the fixtures: this file is read before `tests/conftest.py` has said how many threads.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from jobs.runs.folder import RunFolder


@pytest.fixture(scope="session", autouse=True)
def no_fork_server() -> Iterator[None]:
    """The process that ranks are forked from ends with the tests."""
    yield
    if "tests.jobs.ranks" in sys.modules:
        sys.modules["tests.jobs.ranks"].end_fork_server()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five songs of 3 s, one of them for validation and one for testing; 32 bins."""
    from dataprep.audio.tracks import find_tracks
    from dataprep.preparing.prepare import PrepareSettings, prepare
    from dataprep.shards.splits import parse_split
    from dataprep.synth.songs import write_songs
    from vr_core.specs.stft import StftSpec

    folder = tmp_path_factory.mktemp("tiny")
    list(write_songs(folder / "songs", songs=5, seconds=3.0))
    report = prepare(
        find_tracks([folder / "songs"]).tracks,
        folder / "data",
        PrepareSettings(stft=StftSpec(n_fft=64, hop=32), workers=1),
        split=parse_split("valid=0.2,test=0.2"),
    )
    assert len(report.prepared) == 5
    return folder / "data"


@pytest.fixture
def run(tmp_path: Path) -> "RunFolder":
    """A run's folder with nothing but its recipe; a module may have a `run` of its own."""
    from jobs.runs.folder import RunFolder

    folder = RunFolder(tmp_path / "demo-00000000-1")
    folder.path.mkdir()
    folder.recipe_file.write_text("name: demo\nsteps: 1\n")
    return folder
