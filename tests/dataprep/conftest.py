"""The small data set, made once for all modules of a process; who changes it takes a copy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dataprep.manifest import FILE
from tests.dataprep.data import small_data_set


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `music/`, of four labelled songs and two others, and `data/`, prepared of it; for reading."""
    root = tmp_path_factory.mktemp("small")
    small_data_set(root)
    return root


@pytest.fixture(scope="session")
def copied() -> Callable[[Path, Path], Path]:
    """Copies such a folder to another one, and gives the data set in it, whose sources are the copy's."""

    def copy(root: Path, to: Path) -> Path:
        shutil.copytree(root, to, dirs_exist_ok=True)
        manifest = to / "data" / FILE
        manifest.write_text(manifest.read_text().replace(str(root), str(to)))
        return to / "data"

    return copy
