"""The box that modules share is given back as it was, or whoever spoilt it is named and the next one gets another."""

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


def runs_on(study):
    study.run([sys.executable, "-c", "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True)"])
    await_true(lambda: "sleep" in study.run(["ps", "-eo", "comm"]).stdout, "it runs")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda study: study.kill(), "on: study is gone"),
        (lambda study: study.cut(), "cables: port2 .* is gone"),
        (lambda study: study.rate(40), "cables: port2 qdisc tbf .* is new"),
        (lambda study: study.cpu(0.5), "limits: study: cpu.* is new"),
        (lambda study: study.memory(2**30), "limits: study: memory.* is new"),
        (lambda study: study.run(["mount", "-t", "tmpfs", "tmpfs", SHARED]), f"mounts: study: {SHARED} is new"),
        (lambda study: (study.home / "home.yaml").touch(), "home: study: home.yaml is new"),
        (runs_on, "processes: study: sleep is new"),
    ],
)  # fmt: skip
def test_who_spoils_it_is_named_and_the_next_one_gets_another(standing, spoil, named):
    with (
        pytest.raises(pytest.fail.Exception, match=f"(?s)^tests/one.py leaves .*{named}"),
        standing.lent("tests/one.py") as one,
    ):
        spoil(one["study"])
    with standing.lent("other") as another:
        assert another is not one
        another["attic"].run(["ssh", "study", "true"])


def test_who_says_that_it_breaks_it_is_not_blamed(standing):
    with standing.lent("one", breaks=True) as one:
        one["study"].kill()
    with standing.lent("other") as another:
        assert another is not one
