"""The small data set, made once for all modules of a process; who changes it takes a copy.

What imports torch is imported by the fixtures: this file is read before `tests/conftest.py` has said how many threads.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `music/`, of four labelled songs and two others, and `data/`, prepared of it; for reading."""
    from tests.dataprep.data import small_data_set

    root = tmp_path_factory.mktemp("small")
    small_data_set(root)
    return root


@pytest.fixture(scope="session")
def copied() -> Callable[[Path, Path], Path]:
    """Copies such a folder to another one, and gives the data set in it, whose sources are the copy's."""

    def copy(root: Path, to: Path) -> Path:
        shutil.copytree(root, to, dirs_exist_ok=True)
        manifest = to / "data" / "manifest.json"
        manifest.write_text(manifest.read_text().replace(str(root), str(to)))
        return to / "data"

    return copy
