"""Who may import whom: the rules are in pyproject.toml and CI runs them; here, that they catch what they should."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "dataprep", "jobs", "vr_core")
PLANTED = [
    ("vr_core.one", "import jobs.recipe", "jobs.recipe"),
    ("vr_core.two", "import ray", "ray"),
    ("dataprep.one", "import cluster", "cluster"),
    ("dataprep.two", "def late() -> None:\n    import ray", "ray"),
    ("cluster.one", "import torch", "torch"),
    ("cluster.two", "from vr_core.specs import stft", "vr_core.specs.stft"),
    ("cluster.three", "import jobs.recipe", "jobs.recipe"),
    ("cluster.four", "def late() -> None:\n    import dataprep", "dataprep"),
    ("vr_core.specs.models", "import torch", "torch"),
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
