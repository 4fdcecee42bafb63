"""What goes wrong with runs, checkpoints and jobs.

    UserError
    ├── RunExists          the same recipe was run, or is being run, already
    ├── UnknownRun         no run of that name
    ├── NotACheckpoint     not a checkpoint of ours, or a damaged one
    ├── Unplaceable        the machine here can never hold the recipe's workers
    ├── ItemTooLarge       a device has no memory for one item of a recipe
    ├── NoDevice           a GPU was asked for and there is none
    ├── NoSongs            nothing to separate or to score
    ├── NoSteps            a run has not got far enough for what was asked
    ├── NothingKept        this PC keeps no code and no recipe of a run
    └── FolderTaken        vr quickstart cannot have the folder
    Failure
    ├── RunFailed          the supervisor gave a run up
    │   ├── Superseded     a newer attempt owns the run
    │   └── NewerStart     a newer start of the run's workers writes its files
    ├── JobsFailure        the head's job service refused
    │   ├── JobUnknown     whether the head took a job is not known
    │   └── ClaimLost      somebody else has stopped or submitted the run meanwhile
    ├── Late               an answer did not come in time
    ├── DamagedRun         a file of a run folder is unreadable
    ├── DamagedLedger      the table of submitted runs is unreadable
    ├── NoMemory           a device cannot hold what a separation computes at once
    └── SongsFailed        some songs could not be separated or scored; the others were

The command line prints the message as one line and exits with the class's `exit_code`.
"""

from vr_core.errors import Failure, UserError


class RunExists(UserError):
    """The same recipe was run, or is being run, already."""


class UnknownRun(UserError):
    """No run of that name."""


class NotACheckpoint(UserError):
    """Not a checkpoint of ours, or a damaged one."""


class Unplaceable(UserError):
    """The machine here can never hold the recipe's workers."""


class ItemTooLarge(UserError):
    """A device has no memory for one item of a recipe."""


class RunFailed(Failure):
    """The supervisor gave a run up, or the loop did: trying again would end the same way."""


class Superseded(RunFailed):
    """A newer attempt owns the run: this driver must not write to it any more."""


class NewerStart(RunFailed):
    """A newer start of the run's workers has begun: this one must not write any more."""


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


class DamagedLedger(Failure):
    """The table of submitted runs is unreadable."""


class NoDevice(UserError):
    """A GPU was asked for and there is none."""


class NoSongs(UserError):
    """Nothing to separate or to score."""


class NoSteps(UserError):
    """A run has not got far enough for what was asked."""


class NothingKept(UserError):
    """This PC keeps no code and no recipe of a run, and executes none of the run's folder."""


class FolderTaken(UserError):
    """The folder given to vr quickstart or vr eval holds something else, is in use, or cannot be written."""


class NoMemory(Failure):
    """A device cannot hold what a separation computes at once."""


class SongsFailed(Failure):
    """Some songs could not be separated or scored, each was named; the others were."""
