"""The box that modules share is given back as it was, or whoever spoilt it is named and the next one gets another."""

import re
import sys

import pytest

from tests.box.standing import Standing, traces_of_hosts
from tests.lan import SHARED, Lan, await_true, require

pytestmark = pytest.mark.xdist_group("box")


@pytest.fixture(scope="module")
def standing():
    """A box of two PCs and no cluster."""
    require()
    box = Standing(lambda: Lan("attic", "study").__enter__(), traces_of_hosts, settling_s=0)
    yield box
    box.close()


def test_who_leaves_it_as_it_was_hands_on_the_same_box_with_an_empty_shared_folder(standing):
    with standing.lent("one") as first:
        first["study"].rate(40)
        first["study"].cut()
        (first.shared / "song").touch()
        (first.shared / "runs" / "one").mkdir(parents=True)
        first["study"].mend()
        first["study"].rate(None)
    with standing.lent("other") as second:
        assert second is first
        assert list(second.shared.iterdir()) == []


def test_whatever_is_left_is_named_with_who_left_it_and_the_next_one_gets_another(standing):
    def spoil(box):
        quiet = "stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL"
        sleeper = f"import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True, {quiet})"
        box["study"].run([sys.executable, "-c", sleeper])
        await_true(lambda: "sleep" in box["study"].run(["ps", "-eo", "comm"]).stdout, "it runs")
        box["study"].run(["mount", "-t", "tmpfs", "tmpfs", SHARED])
        (box["study"].home / "home.yaml").touch()
        box["study"].cpu(0.5)
        box["study"].memory(2**30)
        box["study"].rate(40)
        box["attic"].cut()

    first, *lines = blame(standing, spoil)
    assert first == "tests/one.py leaves the standing box other than it found it:"
    named = [re.sub(r"(cpu|memory)\.\S+ \d+", r"\1", line.strip()) for line in lines]
    assert sorted(named) == [
        "cables: port1 noqueue is gone", "cables: port2 noqueue is gone", "cables: port2 tbf is new",
        "home: study: home.yaml is new", "limits: study: cpu is new", "limits: study: memory is new",
        f"mounts: study: {SHARED} is new", "processes: study: sleep is new",
    ]  # fmt: skip
    with standing.lent("other") as another:
        another["attic"].run(["ssh", "study", "true"])


def test_who_leaves_a_pc_off_is_named(standing):
    assert "  on: study is gone" in blame(standing, lambda box: box["study"].kill())


def blame(standing, spoil):
    """The lines that say what a borrower has left."""
    lent = standing.lent("tests/one.py")
    spoil(lent.__enter__())
    with pytest.raises(pytest.fail.Exception) as failed:
        lent.__exit__(None, None, None)
    return failed.value.msg.splitlines()


def test_who_says_that_it_breaks_it_is_not_blamed(standing):
    with standing.lent("one", breaks=True) as one:
        one["study"].kill()
    with standing.lent("other") as another:
        assert another is not one
