"""The recorded runs by two trees in turn: the one that `before/` was recorded with, and this one.

Its exit code is 1 where a bit differs.

python -m tests.recorded.compare [COMMIT]
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.recorded.runs import RUNS, SAME_EVERYWHERE

ROOT = Path(__file__).parents[2]
BEFORE = Path(__file__).parent / "before"


def recorded_commit() -> str:
    """The commit whose code computes what stands in the recorded files."""
    return _git("log", "--diff-filter=AM", "-1", "--format=%H", "--", str(BEFORE / "one.json")).strip()


def train_with(tree: Path, folder: Path) -> None:
    """Train all runs with the code in `tree`, over the recorded data set, into `folder`."""
    environment = os.environ | {
        **SAME_EVERYWHERE, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1",
        "XDG_STATE_HOME": str(folder.parent / f"{folder.name}-state"),
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.recorded.runs", str(folder), str(BEFORE / "data")]
    subprocess.run(command, cwd=tree, env=environment, check=True)


def main(commit: str) -> int:
    """Print a line for each run; 1 where one differs."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        _git("worktree", "add", "--quiet", "--detach", str(work / "tree"), commit)
        try:
            train_with(work / "tree", work / "then")
            train_with(ROOT, work / "now")
        finally:
            _git("worktree", "remove", "--force", str(work / "tree"))
        files = [f"{name}.{kind}" for name in RUNS for kind in ("json", "safetensors")]
        differing = [
            file for file in files if (work / "then" / file).read_bytes() != (work / "now" / file).read_bytes()
        ]
    for file in files:
        print(f"{file:24} {'differs' if file in differing else 'equal'}")
    return 1 if differing else 0


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else recorded_commit()))
