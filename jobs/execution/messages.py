"""What the supervisor hands to the workers of a start, and what they say of a failure."""

import contextlib
import platform
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from jobs.errors import RunFailed
from jobs.execution.retry import Failed
from jobs.recipe import Recipe
from vr_core.config import Line, Spec, plain, validate
from vr_core.errors import ConfigError, StorageError, UserError, VrError
from vr_core.small_files import read_json

DEFAULT_LOOP = "jobs.training.loop:train"


class WorkerSpec(Spec):
    """What the supervisor hands to every worker of one fit."""

    run: Path
    recipe: Recipe
    attempt: int
    fit: int
    """Number of this start within the attempt, from 1."""
    previous_hosts: tuple[str, ...]
    """Host names of PCs whose workers have been in a start of the run before."""
    use_gpu: bool
    loop: str = DEFAULT_LOOP
    """`module:function` with the signature of `jobs.training.loop.train`."""


def words(error: BaseException, rank: int) -> dict[str, Any]:
    """What the supervisor reads about the failure of a rank."""
    return {
        "rank": rank,
        "host": platform.node(),
        "class": type(error).__name__,
        "message": str(error) if isinstance(error, VrError) else f"{type(error).__name__}: {error}",
        "user_error": isinstance(error, UserError),
        "final": isinstance(error, UserError | RunFailed),
        "storage": isinstance(error, StorageError),
        "traceback": "".join(traceback.format_exception(error)),
        "time_s": time.time(),
    }


class Words(Spec):
    """`error-N-rank-R.json`: what a rank said of its failure."""

    model_config = ConfigDict(extra="ignore")  # what only people read: the class, the traceback
    rank: Annotated[int, Field(ge=0)]
    host: Line
    message: str
    user_error: bool
    final: bool
    storage: bool = False
    time_s: float


def read_words(folder: Path, start: int) -> list[dict[str, Any]]:
    """What the ranks of a start have said, as far as it can be read: a damaged word is as if it had died without."""
    found = []
    for file in sorted(folder.glob(f"error-{start}-rank-*.json")):
        with contextlib.suppress(OSError, ValueError, ConfigError):
            found.append(plain(validate(Words, read_json(file), str(file))))
    return found


def carried(failures: Mapping[int, BaseException], reported: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Words of the ranks that could not write them, since their PC does not see the run's folder: Ray has them."""
    written = {t["rank"] for t in reported}
    unsaid = {rank: failure for rank, failure in failures.items() if rank not in written}
    return [words(failure, rank) for rank, failure in unsaid.items() if isinstance(failure, VrError)]


def first_cause(reported: Sequence[dict[str, Any]], silent: Collection[int], step: int, fallback: str) -> Failed:
    """The failure that made the others.

    Args:
        reported: What ranks said before they ended (`words`).
        silent: Ranks that failed without a word: their process died.
        step: Step of the newest checkpoint.
        fallback: What Ray says.
    """
    reported = [{**t, "message": _placed(t)} for t in reported]
    final = sorted((t for t in reported if t["final"]), key=lambda t: (not t["user_error"], t["time_s"]))
    if final:
        return Failed(step, final[0]["message"], final=True, user_error=final[0]["user_error"])
    away = [t for t in reported if t.get("storage")]
    if away:  # the others only lost their connection to it
        return Failed(step, min(away, key=lambda t: t["time_s"])["message"], storage=True)
    if silent:
        # The others only lost their connection to it.
        ranks = ", ".join(str(rank) for rank in sorted(silent))
        return Failed(step, f"worker {ranks} died: its machine, its network or its memory")
    if reported:
        return Failed(step, min(reported, key=lambda t: t["time_s"])["message"].splitlines()[0][:300])
    return Failed(step, fallback[:300])


def _placed(reported: Mapping[str, Any]) -> str:
    """The message, with the PC's name where that is another one: `no such folder` may be true there alone."""
    message: str = reported["message"]
    return message if reported["host"] == platform.node() else f"{reported['host']}: {message}"
