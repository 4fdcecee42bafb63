"""The small data set, made once for all modules of a process; who changes it takes a copy.

What imports torch is imported by the fixtures: this file is read before `tests/conftest.py` has said how many threads.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vr_core.files import write_json
from vr_core.small_files import read_json


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
        for name in ("manifest.json", "manifest.second.json"):
            text = json.dumps(read_json(to / "data" / name)).replace(str(root), str(to))
            write_json(to / "data" / name, json.loads(text), seal=True)
        return to / "data"

    return copy
