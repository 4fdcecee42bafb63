"""Which tests run, in what order, and which of them share a process: a pytest plugin, part of every run.

Two tiers. The quick one is what `pytest` runs. A module or case marked `long` runs only where the `-m` expression names
`long`; its mark says which folders of the product it covers, so that CI runs those whose folders changed
(`--long-changed`), until `--long-until`.

Tests of one `xdist_group` run one after the other in one process, which is how they share a head or a box of PCs: the
groups come first, since they mostly wait, and the others fill the cores meanwhile. What breaks a shared cluster is
marked `breaks` and comes last in its group. Every other module is a group of its own, so that its fixtures are made
once.
"""

import re
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUPS = ("box", "head", "ranks")
"""A LAN in a box; a head and a node on loopback; ranks that are forked from one process that has imported torch."""


def covers(item: pytest.Item) -> tuple[str, ...]:
    """Folders of the product that a long test covers; none of a quick one."""
    mark = item.get_closest_marker("long")
    return tuple(mark.args) if mark else ()


def names_long(expression: str) -> bool:
    """Whether a `-m` expression speaks of the long tier at all."""
    return re.search(r"\blong\b", expression) is not None


def concerned(folders: Iterable[str], changed: Iterable[str]) -> bool:
    """Whether a changed file lies in one of the folders, at any depth; `tests` changes what all of them test with."""
    return any(file == folder or file.startswith(f"{folder}/") for folder in folders for file in changed)


def group_of(item: pytest.Item) -> str:
    """Name of the item's `xdist_group`; empty where it may run beside anything."""
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


def pytest_itemcollected(item: pytest.Item) -> None:
    if not group_of(item):
        item.add_marker(pytest.mark.xdist_group(f"{item.path.parent.name}-{item.path.stem}"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if names_long(config.option.markexpr):
        if config.option.long_changed is not None:
            changed = Path(config.option.long_changed).read_text().split("\n")
            _keep(config, items, [i for i in items if not covers(i) or concerned(covers(i), changed)])
    else:
        _keep(config, items, [item for item in items if item.get_closest_marker("long") is None])
    items[:] = in_order(items)


def _keep(config: pytest.Config, items: list[pytest.Item], kept: list[pytest.Item]) -> None:
    left_out = [item for item in items if item not in set(kept)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
    items[:] = kept


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A module that has begun goes on to its end."""
    until_s, begun = item.config.option.long_until, item.config.stash.setdefault(_BEGUN, set())
    if covers(item) and item.path not in begun:
        if until_s is not None and time.monotonic() > until_s:
            pytest.skip(f"no time left for {item.path.relative_to(ROOT)}")
        begun.add(item.path)


_BEGUN = pytest.StashKey[set[Path]]()
