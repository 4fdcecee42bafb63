"""A call that hangs or fails hinders no other."""

import sys
import threading

from jobs.errors import Late
from jobs.queue.apart import Apart


def test_answers_and_failures_stand_under_their_names():
    def fails() -> str:
        raise RecursionError("too deep")

    answers = Apart[str]().call({"attic": lambda: "well", "study": fails}, within_s=60)
    assert answers["attic"] == "well"
    assert isinstance(answers["study"], RecursionError)
    assert Apart[str]().call({}, within_s=60) == {}


def test_what_would_end_the_process_fails_like_everything_else():
    answers = Apart[None]().call({"attic": lambda: sys.exit(3)}, within_s=60)
    assert str(answers["attic"]) == "SystemExit: 3"


def test_a_call_that_hangs_is_late_and_is_not_made_again_before_it_has_returned():
    release, begun = threading.Event(), []

    def hangs() -> str:
        begun.append("study")
        release.wait(20)  # without a deadline it would come back
        return "back"

    apart = Apart[str]()
    calls = {"study": hangs, "attic": lambda: "well"}
    late = apart.call({"study": hangs}, within_s=0.01)["study"]
    assert isinstance(late, Late)
    assert "no answer in 0.01 s" in str(late)
    for _ in range(2):
        answers = apart.call(calls, within_s=60)
        assert isinstance(answers["study"], Late), "who hangs already is not waited for"
        assert answers["attic"] == "well"
    assert begun == ["study"]
    release.set()
    for thread in threading.enumerate():
        if thread.name == "study":
            thread.join(60)
    assert apart.call(calls, within_s=60)["study"] == "back"
