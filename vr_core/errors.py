"""The root of every exception that this project raises on purpose.

    VrError                 one line for the user; `exit_code` is what the command line exits with
    ├── UserError (2)       the request cannot be carried out as asked: change the input or the command
    │   ├── ConfigError     a recipe, an inventory or an override that does not fit the schema
    │   ├── ModelError      a model that cannot be trained as it is built
    │   └── WeightsError    a weights file that is missing, damaged, not ours or does not fit
    └── Failure (1)         the request was right and something failed
        ├── LinkRefused     a link in the place of a file or folder that is written to
        └── StorageError    a file could not be written or read: no space, no right, or the disk went away

Each package derives its own from `UserError` and `Failure` in its `errors.py`. Anything else that reaches
the command line is a bug and shows its traceback.
"""

import errno
import shlex


def command(name: str, *words: object) -> str:
    """A command of ours as a message shows it, such that it can be pasted into a shell.

    Args:
        name: of the command, such as `data verify`.
        words: options, ids and paths, as the command is to get them.
    """
    return f"vr {name} {shlex.join(map(str, words))}".rstrip()


class VrError(Exception):
    """A message that names the thing, what was expected and what to do; printed as one line."""

    exit_code = 1


class UserError(VrError):
    """The request cannot be carried out as asked; the user can change that."""

    exit_code = 2


class Failure(VrError):
    """The request was right and something outside failed."""

    exit_code = 1


class ConfigError(UserError):
    """A recipe, an inventory or an override that does not fit its schema."""


class ModelError(UserError):
    """A model that cannot be trained as it is built: its code has to change, or the recipe has to name another."""


class WeightsError(UserError):
    """A weights file that is missing, damaged, not ours, of another format version, or does not fit the model."""


class LinkRefused(Failure, OSError):
    """A link where this program writes, in a folder that others may write to: it would lead somewhere else."""

    errno = errno.ELOOP
    strerror = "it is a link, which is not followed"


class StorageError(Failure):
    """Storage failed, not what lies on it: no space, no right, or the disk went away. What was there is untouched."""
