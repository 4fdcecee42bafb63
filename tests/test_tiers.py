"""What runs when: the tiers, the groups and their order, in small suites of their own."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "dataprep", "jobs", "vr_core")
SUITE = """
import pytest

def test_quick(): pass

@pytest.mark.long("jobs/queue", "cluster")
def test_long(): pass

@pytest.mark.parametrize("event", ["one", pytest.param("other", marks=pytest.mark.long("dataprep"))])
def test_event(event): pass
"""


@pytest.fixture
def ran(pytester):
    """A function: names of the tests that ran with these arguments, in order."""
    pytester.makepyfile(test_suite=SUITE)

    def run(*arguments):
        done = pytester.inline_run("-p", "tests.tiers", "-p", "no:xdist", *arguments)
        passed, _, failed = done.listoutcomes()
        assert not failed
        return [report.nodeid.partition("::")[2] for report in passed]

    return run


def test_the_long_tier_runs_only_where_it_is_named(ran):
    quick = ["test_quick", "test_event[one]"]
    assert ran() == quick
    assert ran("-m", "not gpu") == quick
    assert ran("-m", "not belong") == quick
    assert ran("-m", "long") == ["test_long", "test_event[other]"]
    assert ran("-m", "long or not long") == ["test_quick", "test_long", "test_event[one]", "test_event[other]"]


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ([], []),
        (["jobs/train.py", "jobs/queue.py", "README.md"], []),
        (["jobs/queue/keeper.py"], ["test_long"]),
        (["cluster/probe/links.py", "dataprep/batches/order.py"], ["test_long", "test_event[other]"]),
        (["test_suite.py"], ["test_long", "test_event[other]"]),
        (["pyproject.toml"], ["test_long", "test_event[other]"]),
        (["tests/box/goings.py"], ["test_long", "test_event[other]"]),
        (["tests/jobs/test_train.py", "tests/README.md", "tests/bench/sync.py"], []),
    ],
)
def test_of_the_long_tier_runs_what_covers_a_changed_folder(ran, pytester, changed, wanted):
    (pytester.path / "changed").write_text("\n".join(changed))
    assert ran("-m", "long", "--long-changed", "changed") == wanted


LATE = """
import pytest

pytestmark = pytest.mark.long("jobs")

def test_one(request):
    request.config.option.long_until = 0.0

def test_two(): pass
"""


def test_no_long_module_begins_after_its_time_and_one_that_began_goes_on(pytester):
    pytester.makepyfile(test_first=LATE, test_second=LATE)
    arguments = ("-p", "tests.tiers", "-p", "no:xdist", "-m", "long", "-rs", "--long-until", "inf")
    done = pytester.runpytest_inprocess(*arguments)
    done.assert_outcomes(passed=2, skipped=2)
    done.stdout.fnmatch_lines(["*no time left for test_second.py*"])


GROUPED = """
import pytest
pytestmark = pytest.mark.xdist_group("{group}")

@pytest.mark.breaks
def test_breaks(): pass

def test_shares(): pass
"""


def test_groups_come_first_and_in_each_what_breaks_its_cluster_last(pytester, ran):
    pytester.makepyfile(test_a=GROUPED.format(group="head"), test_b=GROUPED.format(group="box"))
    pytester.makepyfile(test_c=GROUPED.format(group="head"), test_d=GROUPED.format(group="other"))
    assert set(ran("-m", "pure")) == {"test_quick", "test_event[one]"}
    names = [name for name in ran() if name.startswith(("test_shares", "test_breaks"))]
    assert names == [
        "test_shares",
        "test_breaks",
        *["test_shares"] * 2,
        *["test_breaks"] * 2,
        "test_breaks",
        "test_shares",
    ]


def test_one_process_has_all_of_a_group_and_each_module_is_one(pytester):
    """xdist itself, whose groups are part of a test's name."""
    line = 'import os, json\ndef test_it(n): open(f"{os.getpid()}.ran", "a").write(__name__ + "\\n")\n'
    line += 'def pytest_generate_tests(metafunc): metafunc.parametrize("n", range(8))\n'
    alone = {name: line for name in ("test_a", "test_b")}
    mark = 'import pytest\npytestmark = pytest.mark.xdist_group("box")\n'
    pytester.makepyfile(**alone, test_c=mark + line, test_d=mark + line)
    done = pytester.runpytest_subprocess("-p", "tests.tiers", "-n2", "--dist=loadgroup", "--no-loadscope-reorder")
    done.assert_outcomes(passed=32)
    where = {}
    for file in pytester.path.glob("*.ran"):
        for module in file.read_text().split():
            where.setdefault(module, set()).add(file.name)
    assert all(len(processes) == 1 for processes in where.values()), where
    assert where["test_c"] == where["test_d"]


def test_seconds_of_each_module_are_told(pytester):
    """Also of a process that a test has started and left."""
    spin = "import time; s = time.process_time()\\nwhile time.process_time() < s + 1.5: pass"
    pytester.makepyfile(
        conftest='import os, uuid\nos.environ["VR_TEST_SESSION"] = uuid.uuid4().hex\n',
        test_busy=f'import subprocess, sys\ndef test_it(): subprocess.run([sys.executable, "-c", "{spin}"])\n',
        test_idle="def test_it(): pass\n",
    )
    done = pytester.runpytest_subprocess("-p", "tests.costs", "-p", "no:xdist", "--costs", "costs.json")
    done.assert_outcomes(passed=2)
    told = {row["module"]: row for row in json.loads((pytester.path / "costs.json").read_text())}
    assert told["test_busy.py"]["cpu_s"] > 0.8
    assert told["test_busy.py"]["wall_s"] > told["test_idle.py"]["wall_s"]
    assert told["test_idle.py"]["cpu_s"] < 0.5
    done.stdout.fnmatch_lines(["*the 2 longest of 2 modules*", "*test_busy.py"])


def folders_of_long_marks():
    """Arguments of every `pytest.mark.long(...)` in the suite."""
    found = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.long":
                assert node.args, f"{file}:{node.lineno}: a long test names the folders that it covers"
                found |= {ast.literal_eval(argument) for argument in node.args}
    return found


def test_every_folder_of_the_product_is_covered_by_the_long_tier():
    named = folders_of_long_marks()
    assert {name for name in named if not (ROOT / name).is_dir()} == set(), "no such folders"
    folders = {file.parent.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    assert {str(f) for f in folders if not named & {str(f), *map(str, f.parents)}} == set()
