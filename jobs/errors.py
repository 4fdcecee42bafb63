"""What goes wrong with runs, checkpoints and jobs.

    UserError
    ├── RunExists          the same recipe was run, or is being run, already
    ├── UnknownRun         no run of that name
    ├── NotACheckpoint     not a checkpoint of ours, or a damaged one
    ├── Unplaceable        the machine here can never hold the recipe's workers
    ├── NoDevice           a GPU was asked for and there is none
    ├── NoSongs            nothing to separate or to score
    ├── NoSteps            a run has not got far enough for what was asked
    └── FolderTaken        vr quickstart cannot have the folder
    Failure
    ├── RunFailed          the supervisor gave a run up
    ├── JobsFailure        the head's job service refused
    │   ├── JobUnknown     whether the head took a job is not known
    │   └── ClaimLost      somebody else has stopped or submitted the run meanwhile
    ├── Late               an answer did not come in time
    ├── DamagedRun         a file of a run folder is unreadable
    ├── RunStopped         the user asked a run to stop, and it has
    ├── RunLeft            a run has left its machines with a checkpoint; it goes on elsewhere
    ├── WorkersLeftOut     steps are shorter without some workers; the run goes on without them
    └── SongsFailed        some songs could not be separated or scored; the others were

The command line prints the message as one line and exits with the class's `exit_code`.
"""

from collections.abc import Sequence

from vr_core.errors import Failure, UserError


class RunExists(UserError):
    """The same recipe was run, or is being run, already."""


class UnknownRun(UserError):
    """No run of that name."""


class NotACheckpoint(UserError):
    """Not a checkpoint of ours, or a damaged one."""


class Unplaceable(UserError):
    """The machine here can never hold the recipe's workers."""


class RunFailed(Failure):
    """The supervisor gave a run up, or the loop did: trying again would end the same way."""


class JobsFailure(Failure):
    """The head's job service refused."""


class JobUnknown(JobsFailure):
    """Whether the head took a job is not known: no answer came, and it cannot be asked."""


class ClaimLost(JobsFailure):
    """Somebody else has stopped or submitted the run meanwhile."""


class Late(Failure):
    """An answer did not come in time."""


class DamagedRun(Failure):
    """A file of a run folder is unreadable."""


class RunStopped(Failure):
    """The user asked the run to stop, and it has, with a checkpoint written: how the loop leaves on every rank."""


class RunLeft(Failure):
    """A machine is taken back: the loop has left on every rank, with a checkpoint written; the run goes on."""


class WorkersLeftOut(Failure):
    """Steps are shorter without some of the workers: the loop has left on every rank, and the run goes on."""

    def __init__(self, ranks: Sequence[int], with_s: float, without_s: float) -> None:
        """Without `ranks` a step takes `without_s`, with them `with_s`, both predicted."""
        super().__init__(
            f"workers {', '.join(map(str, ranks))} make a step {with_s:.2f} s instead of {without_s:.2f} s"
        )
        self.ranks, self.with_s, self.without_s = list(ranks), with_s, without_s


class NoDevice(UserError):
    """A GPU was asked for and there is none."""


class NoSongs(UserError):
    """Nothing to separate or to score."""


class NoSteps(UserError):
    """A run has not got far enough for what was asked."""


class FolderTaken(UserError):
    """The folder given to vr quickstart holds something else, is in use, or cannot be written."""


class SongsFailed(Failure):
    """Some songs could not be separated or scored, each was named; the others were."""
