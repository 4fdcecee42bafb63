"""What each entry point may import: a process that only waits, or only prints, must not pay for torch or ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import commands

WITH_TORCH = ("torch", "torchaudio", "jaxtyping", "librosa", "scipy", "matplotlib", "tensorboard")
NO_TENSORS = (*WITH_TORCH, "ray", "pandas")
HEAVY = (*NO_TENSORS, "pyarrow", "numpy", "av", "soundfile", "soxr", "grpc", "aiohttp", "requests")
WITH_SCHEMAS = (*HEAVY, "pydantic", "yaml", "rich", "psutil", "cryptography")

ROOM = Path(commands.__path__[0])
COMMANDS = [
    "jobs.commands." + ".".join(file.relative_to(ROOM).with_suffix("").parts) for file in sorted(ROOM.rglob("[!_]*.py"))
]
MODULES = {
    # Every command's module, and with it `vr --help`.
    **dict.fromkeys(["jobs.cli", *COMMANDS], WITH_SCHEMAS),
    # Drawn by commands that are at work already.
    "jobs.commands.cluster.table": HEAVY,
    # Processes that live beside a head, beside a node, or beside a run.
    "cluster.node.supervise": HEAVY,
    "cluster.joining.admission": HEAVY,
    "jobs.queue.keeper": HEAVY,
    "jobs.execution.launch": HEAVY,
    # What commands import when they begin.
    "jobs.queue.client": HEAVY,
    "jobs.reports.overview": HEAVY,
    "jobs.quickstart.quickstart": HEAVY,
    "jobs.queue.submit": HEAVY,
    "jobs.search.tune": HEAVY,
    "cluster.node.lifecycle": HEAVY,
    "cluster.status.nodes": HEAVY,
    # What looks at a data set that is there.
    "dataprep.inspecting.inspect": NO_TENSORS,
    "dataprep.batches.staging": NO_TENSORS,
    "jobs.training.storage": NO_TENSORS,
}
CALLS = {
    ("--help",): (0, WITH_SCHEMAS),
    ("--version",): (0, HEAVY),
    ("--version", "--json"): (0, HEAVY),
    ("jobs", "list"): (0, HEAVY),
    ("jobs", "list", "--json"): (0, HEAVY),
    ("cluster", "status"): (2, HEAVY),
    ("cluster", "--help"): (0, HEAVY),
    ("models", "--table"): (0, HEAVY),
}
"""Of `vr`, in an empty folder where no head runs: the exit code, and what it must not import."""

LOOK = """
import contextlib, importlib, io, json, sys

asked, found, seen = json.loads(sys.argv[1]), [], set()

def say(code=None):
    loaded = {name.partition(".")[0] for name in sys.modules}
    found.append([sorted(loaded - seen), code])
    seen.update(loaded)

def call(*words):
    from jobs import cli
    sys.argv = ["vr", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code or 0

def start_workers():
    from pathlib import Path
    from jobs import recipe
    from jobs.execution import placement, ray_train
    from jobs.runs.folder import RunFolder
    demo = recipe.Recipe(name="demo", steps=1)
    place = placement.Placement(use_gpu=False, resources={"CPU": 1.0}, selectors=[{}])
    ray_train.trainer(RunFolder(Path.cwd() / "demo"), demo, 1, 1, place, "jobs.training.loop:train", ())

for kind, *words in asked:
    if kind == "vr":
        say(call(*words))
    elif kind == "import":
        say(importlib.import_module(*words) and None)
    else:
        say(start_workers())
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def newly(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[list[str], int | None]]:
    """Packages that each entry point was the first to import, and its exit code.

    All of them are one process's, those first that may import least: what one has imported, a later one may as well.
    """
    empty = tmp_path_factory.mktemp("imports")
    asked = [("import", name) for name in MODULES] + [("vr", *words) for words in CALLS]
    allowed = [*MODULES.values(), *(forbidden for _, forbidden in CALLS.values())]
    in_order = sorted(range(len(asked)), key=lambda k: -len(allowed[k]))
    asked = [asked[k] for k in in_order] + [("start workers",)]
    done = subprocess.run(
        [sys.executable, "-c", LOOK, json.dumps(asked)],
        cwd=empty, env={**os.environ, "XDG_STATE_HOME": str(empty)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, map(tuple, json.loads(done.stdout)), strict=True))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_heavy(newly, module):
    packages, _ = newly["import", module]
    assert sorted({*packages} & {*MODULES[module]}) == []


@pytest.mark.parametrize("words", CALLS, ids=" ".join)
def test_a_command_that_only_tells_imports_nothing_heavy(newly, words):
    (packages, code), (expected, forbidden) = newly["vr", *words], CALLS[words]
    assert code == expected
    assert sorted({*packages} & {*forbidden}) == []


def test_a_driver_starts_workers_without_torch(newly):
    packages, _ = newly["start workers",]
    assert "ray" in packages
    assert sorted({*packages} & {*WITH_TORCH}) == []
