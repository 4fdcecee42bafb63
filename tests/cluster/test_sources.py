import os
import subprocess

import pytest

from cluster.errors import ClusterError
from cluster.source_tree import source_root, stage


@pytest.fixture
def tree(tmp_path):
    """A small source tree without git."""
    root = tmp_path / "tree"
    for name in ("cluster/a.py", "cluster/__pycache__/a.pyc", "jobs/b.py", "jobs/recipes/c.yaml", "notes/d.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}\n")
    for name in ("pyproject.toml", "README.md", ".gitignore"):
        (root / name).write_text("notes/\n__pycache__/\n" if name == ".gitignore" else f"{name}\n")
    return root


@pytest.fixture
def staged(tmp_path):
    """Stages a tree into a new folder each time."""
    made = []

    def act(root, **bounds):
        made.append(tmp_path / f"staged{len(made)}")
        made[-1].mkdir()
        return stage(root, made[-1], **bounds)

    return act


def git(root, *arguments):
    environment = {"PATH": os.environ["PATH"], "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1"}
    names = ("-c", "user.name=sam", "-c", "user.email=sam@localhost")
    subprocess.run(["git", "-C", str(root), *names, *arguments], check=True, capture_output=True, env=environment)


def names(copied):
    return {str(path.relative_to(copied.folder)) for path in copied.folder.rglob("*") if path.is_file()}


def test_without_git_the_packages_go_and_what_builds_them(tree, staged):
    copied = staged(tree)
    assert names(copied) == {"cluster/a.py", "jobs/b.py", "jobs/recipes/c.yaml", "pyproject.toml", "README.md"}
    assert copied.files == 5
    assert copied.size_bytes == sum(path.stat().st_size for path in copied.folder.rglob("*") if path.is_file())


def test_with_git_what_is_tracked_and_what_is_not_ignored_goes(tree, staged):
    git(tree, "init")
    git(tree, "add", "cluster/a.py", "jobs/b.py", "pyproject.toml")
    git(tree, "commit", "-m", "first")
    (tree / "jobs/b.py").unlink()
    (tree / "jobs/new.py").write_text("new\n")
    (tree / "songs").mkdir()
    (tree / "songs/vocals.wav").write_text("a data set in the checkout is no code\n")
    assert names(staged(tree)) == {"cluster/a.py", "jobs/recipes/c.yaml", "pyproject.toml", "README.md", "jobs/new.py"}


def test_a_tree_in_somebodys_repository_is_none_of_its_files(tree, staged):
    git(tree.parent, "init")
    (tree.parent / "diary.txt").write_text("private\n")
    assert names(staged(tree)) == {"cluster/a.py", "jobs/b.py", "jobs/recipes/c.yaml", "pyproject.toml", "README.md"}


def test_the_digest_changes_with_every_change_and_with_nothing_else(tree, staged):
    digests = [staged(tree).digest]
    os.utime(tree / "jobs/b.py", (1, 1))
    assert staged(tree).digest == digests[0]
    (tree / "jobs/b.py").write_text("other\n")
    digests.append(staged(tree).digest)
    (tree / "jobs/b.py").rename(tree / "jobs/e.py")
    digests.append(staged(tree).digest)
    (tree / "jobs/e.py").chmod(0o755)
    digests.append(staged(tree).digest)
    assert len(set(digests)) == 4


def test_what_is_no_source_tree_or_too_much_is_refused(tree, staged):
    with pytest.raises(ClusterError, match=r"MiB of files would be copied to each PC, jobs/recipes/c.yaml the largest"):
        staged(tree, most_bytes=20)
    (tree / "pyproject.toml").unlink()
    with pytest.raises(ClusterError, match="vr was installed without its sources"):
        staged(tree)


def test_this_checkout_can_be_given_away(staged):
    copied = staged(source_root())
    assert {"pyproject.toml", "README.md", "cluster/source_tree.py", "jobs/cli.py", "cluster/example.yaml"} <= names(
        copied
    )
