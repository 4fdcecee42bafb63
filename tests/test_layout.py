"""Who may import whom: the rules are in pyproject.toml and CI runs them; here, that they catch what they should."""

import ast
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "dataprep", "jobs", "vr_core")
PLANTED = [
    ("vr_core.one", "import jobs.recipe", "jobs.recipe"),
    ("vr_core.two", "import ray", "ray"),
    ("vr_core.models.two", "import beartype", "beartype"),
    ("dataprep.one", "import cluster", "cluster"),
    ("dataprep.two", "def late() -> None:\n    import ray", "ray"),
    ("cluster.one", "import torch", "torch"),
    ("cluster.two", "from vr_core.specs import stft", "vr_core.specs.stft"),
    ("cluster.three", "import jobs.recipe", "jobs.recipe"),
    ("cluster.four", "def late() -> None:\n    import dataprep", "dataprep"),
    ("cluster.node.one", "import cluster.joining.redeem", "cluster.joining.redeem"),
    ("dataprep.shards.one", "import dataprep.batches.order", "dataprep.batches.order"),
    ("vr_core.models.one", "import vr_core.objectives.registry", "vr_core.objectives.registry"),
    ("jobs.runs.one", "import jobs.queue.policy", "jobs.queue.policy"),
    ("jobs.queue.one", "def late() -> None:\n    import jobs.training.loop", "jobs.training.loop"),
    ("vr_core.specs.models", "import torch", "torch"),
    ("vr_core.config", "import jaxtyping", "jaxtyping"),
]
LINT = (
    "import sys; sys.path[:0] = ['.']; from importlinter.cli import lint_imports as run; sys.exit(run(no_cache=True))"
)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True)


def test_the_rules_hold_and_every_planted_import_breaks_them(tmp_path):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    before = lint(tmp_path)
    assert before.returncode == 0, before.stdout + before.stderr

    for module, line, _ in PLANTED:
        with (tmp_path / f"{module.replace('.', '/')}.py").open("a") as file:
            file.write(f"\n{line}\n")
    after = lint(tmp_path)
    assert after.returncode == 1, after.stdout + after.stderr
    for module, _, imported in PLANTED:
        assert f"{module} -> {imported} (" in after.stdout, after.stdout


def imports_of(path: Path) -> set[str]:
    """Modules of ours that the file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & MODULES.keys()


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
}


def test_no_import_leads_back_to_where_it_began():
    graph = {name: imports_of(path) for name, path in MODULES.items()}
    assert len(graph["jobs.training.loop"]) > 10
    TopologicalSorter(graph).prepare()  # raises CycleError, and names the modules


def test_a_room_holds_a_dozen_files_and_jobs_twenty_entries():
    for folder in {path.parent for path in MODULES.values()} - {ROOT / "vr_core/models", ROOT / "vr_core/objectives"}:
        assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 12, folder
    entries = {path.name for path in (ROOT / "jobs").iterdir()}
    beside = {"__pycache__", "GUIDE.md", "DECISIONS.md"}  # pages that README.md leads to: nobody looks for code there
    assert len(entries - beside) <= 20


def test_package_init_files_are_empty():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            assert path.read_text().strip() == "", path


def test_no_test_module_is_imported_by_another():
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", None) or ""
            named = [part for name in [module, *names] for part in name.split(".")]
            assert not any(part.startswith("test_") for part in named), f"{path}:{node.lineno}: {module} {names}"
