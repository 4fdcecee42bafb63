"""Which tests run, in what order, and which of them share a process: a pytest plugin, part of every run.

Two tiers. The quick one is what `pytest` runs. A module or a case marked `long` runs only where the `-m` expression
names `long`. Its mark says which folders of the product it covers: with `--long-changed`, those whose folders changed
run, and with `--long-until`, those that begin in time.

Tests of one `xdist_group` run one after the other in one process, which is how they share a head or a box of PCs. The
groups of `GROUPS` come first: they mostly wait, and the others fill the cores meanwhile. What breaks a shared cluster
is marked `breaks` and comes last in its group. Every other module is a group of its own, so that its fixtures are made
once; its tests are marked `pure`.
"""

import re
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

GROUPS = ("box", "head", "ranks")
"""A LAN in a box; a head and a node on loopback; ranks that are forked from one process that has imported torch."""
EVERYTHING = "pyproject.toml"
"""What is installed."""


def covers(item: pytest.Item) -> tuple[str, ...]:
    """Folders of the product that a long test covers; none of a quick one."""
    mark = item.get_closest_marker("long")
    return tuple(mark.args) if mark else ()


def names_long(expression: str) -> bool:
    """Whether a `-m` expression speaks of the long tier at all."""
    return re.search(r"\blong\b", expression) is not None


def concerned(folders: Iterable[str], changed: Iterable[str]) -> bool:
    """Whether a changed file lies in one of the folders, at any depth, or is something that every test stands on."""
    names = tuple(folders)
    return any(
        is_beneath_all(file) or file in names or file.startswith(tuple(f"{name}/" for name in names))
        for file in changed
    )


def is_beneath_all(file: str) -> bool:
    """Whether a change of the file concerns every long test: what is installed, and what tests share."""
    shared = file.startswith("tests/") and file.endswith(".py") and not file.rpartition("/")[2].startswith("test_")
    return file == EVERYTHING or (shared and not file.startswith("tests/bench/"))


def group_of(item: pytest.Item) -> str:
    """Name of the item's `xdist_group`; empty where it has none yet."""
    mark = item.get_closest_marker("xdist_group")
    return str(mark.args[0]) if mark else ""


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """`GROUPS` first, in each what breaks its cluster last; otherwise as they were collected."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        group = group_of(item)
        shares = group in GROUPS
        return GROUPS.index(group) if shares else len(GROUPS), shares and item.get_closest_marker("breaks") is not None

    return sorted(items, key=place)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tiers")
    group.addoption("--long-changed", metavar="FILE", help="of the long tier, only what covers a file listed in FILE")
    group.addoption("--long-until", type=float, metavar="S", help="begin no long module after this monotonic time")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long(*folders): not in the quick tier; covers these folders of the product")
    config.addinivalue_line("markers", "pure: needs no cluster, no box and no ranks; nobody writes this mark")
    config.addinivalue_line("markers", "breaks: changes a shared cluster for good, and so comes last in its group")


def pytest_itemcollected(item: pytest.Item) -> None:
    if not group_of(item):
        item.add_marker(pytest.mark.pure)
        item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}-{item.path.stem}"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not names_long(config.option.markexpr):
        kept = [item for item in items if item.get_closest_marker("long") is None]
    elif config.option.long_changed is not None:
        changed = Path(config.option.long_changed).read_text().splitlines()
        kept = [item for item in items if not covers(item) or concerned([*covers(item), _file(item)], changed)]
    else:
        kept = items[:]
    chosen = set(kept)
    left_out = [item for item in items if item not in chosen]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = in_order(kept)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A module that has begun goes on to its end."""
    until_s, begun = item.config.option.long_until, item.config.stash.setdefault(_BEGUN, set())
    if covers(item) and item.path not in begun:
        if until_s is not None and time.monotonic() > until_s:
            pytest.skip(f"no time left for {_file(item)}")
        begun.add(item.path)


def _file(item: pytest.Item) -> str:
    return item.path.relative_to(item.config.rootpath).as_posix()


_BEGUN = pytest.StashKey[set[Path]]()
