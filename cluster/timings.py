"""The waits of the cluster's protocol as one value: who waits for whom, for how long, until what is done about it.

It is part of the head's record, written by `vr cluster head --timings FILE`; who waits is given it. Tests shorten all
of it at once. How often a page is drawn, how long something is measured, and what one request may take is no part of
it.
"""

import itertools
from typing import Annotated

from pydantic import Field, model_validator

from vr_core.config import Spec

Seconds = Annotated[float, Field(gt=0)]


class Timings(Spec):
    """The waits that whoever runs a cluster may change, in seconds; checkpoints and start-up keep theirs."""

    # The keeper.
    keeper_turn_s: Seconds = 2.0
    """Between two looks of the keeper at the runs and the PCs."""
    submitting_s: Seconds = 30.0
    """A run's row is written before its job exists; for so long the keeper takes no missing job for a lost one."""
    wake_again_s: Seconds = 180.0
    """A PC that was woken has so long to start and join before it is woken again."""
    publish_again_s: Seconds = 60.0
    """Between two tellings who is drained: a GCS that was started again has forgotten it, and they would come back."""
    leave_within_s: Seconds = 120.0
    """A drained node's workers have so long to leave; what still runs then is ended. A checkpoint takes seconds."""
    least_notice_s: Seconds = 5.0
    """What Ray gives a node's processes at least, also where `leave_within_s` is over."""

    # A run that failed.
    first_retry_s: Seconds = 2.0
    """Before a run starts again after one failure; twice as long after each further one without a new checkpoint."""
    longest_retry_s: Seconds = 60.0
    """The longest such pause."""

    # The supervisor of a run.
    beat_s: Seconds = 2.0
    """Between two writes of state.json; a waiting run looks for machines as often."""
    driver_silent_s: Seconds = 60.0
    """A driver on another PC that has not written state.json for so long is taken for dead."""
    join_after_s: Seconds = 10.0
    """A PC that is wanted has been there for so long when the run starts again with it."""
    rest_s: Seconds = 30.0
    """Between a start of a run and one for more PCs: each costs some seconds without a step."""
    end_within_s: Seconds = 10.0
    """Workers that were ended, since a PC is lost or no step is taken, have so long to be gone; then they are left."""
    stop_within_s: Seconds = 25.0
    """The workers of a stopped run have so long to write a checkpoint; then it ends with the one before."""
    stop_job_within_s: Seconds = 40.0
    """Ray ends the driver of a stopped job by force after so long (in whole seconds)."""
    stopped_within_s: Seconds = 45.0
    """A run that is to stop and has not for so long has no driver that listens; `vr jobs stop` says so."""
    storage_again_s: Seconds = 5.0
    """Between two looks for a run's folder that is away, and two tries to write an end."""
    tell_for_s: Seconds = 900.0
    """An end that cannot be written is tried again for so long."""

    # Whether a run's PCs answer.
    ask_every_s: Seconds = 0.5
    """Between two connections to each of a run's PCs."""
    answer_within_s: Seconds = 1.0
    """How long each may take."""
    silent_s: Seconds = 3.0
    """Without an answer for so long a PC is taken for lost; asking takes `answer_within_s` more at most."""

    # Ray on each PC.
    health_check_every_s: Seconds = 1.5
    """Between two checks of a node by Ray's head; a node that has just joined is left alone for as long."""
    health_check_within_s: Seconds = 3.0
    """How long a node may take to answer one; Ray gives it up after three in a row that fail."""
    ray_quick_s: Seconds = 60.0
    """Ray that ends sooner than this after its start has failed to start; later, it was killed or lost its head."""
    ray_first_delay_s: Seconds = 2.0
    """Before Ray starts again after one quick failure; twice as long after each further one."""
    ray_longest_delay_s: Seconds = 60.0
    """The longest such pause."""
    raylet_gone_s: Seconds = 3.0
    """A node whose raylet has ended for so long while `ray start` stays has left, as after a drain."""
    left_s: Seconds = 15.0
    """After a node left in order: the head may be about to suspend the PC, which must not join again in that moment."""
    head_away_s: Seconds = 5.0
    """Between two looks of a node for a head that does not answer; each costs a connection."""
    drained_s: Seconds = 30.0
    """Between two questions of a drained node whether it may come back; each costs a second of one CPU."""
    head_lost_after_s: Seconds = 60.0
    """A node ends its Ray when its head has not answered for so long (in whole seconds); then it joins anew."""
    service_again_s: Seconds = 60.0
    """Between two attempts of the service to start what does not run."""

    @model_validator(mode="after")
    def _in_order(self) -> "Timings":
        for names in _RISING:
            for less, more in itertools.pairwise(names):
                if not getattr(self, less) <= getattr(self, more):
                    raise ValueError(
                        f"{more} {getattr(self, more):g}: should not be less than {less} {getattr(self, less):g}"
                    )
        for less, more in _APART:
            if not getattr(self, less) < getattr(self, more):
                raise ValueError(f"{more} {getattr(self, more):g}: should be more than {less} {getattr(self, less):g}")
        return self


_RISING = (
    ("first_retry_s", "longest_retry_s"),
    ("ray_first_delay_s", "ray_longest_delay_s"),
    ("least_notice_s", "leave_within_s"),
    ("storage_again_s", "tell_for_s"),
)
_APART = (
    # One answer that is late is none that is missing.
    ("ask_every_s", "silent_s"),
    ("answer_within_s", "silent_s"),
    ("beat_s", "driver_silent_s"),
    # Who waits for another gives it more time than that one takes.
    ("stop_within_s", "stop_job_within_s"),
    ("stop_job_within_s", "stopped_within_s"),
)

DEFAULT_TIMINGS = Timings()


def changed(timings: Timings) -> dict[str, float]:
    """Name → seconds of what is not as by default."""
    values: dict[str, float] = timings.model_dump(exclude_defaults=True)
    return values
