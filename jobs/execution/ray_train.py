"""One start of Ray Train's workers, and what to make of its failure."""

import contextlib
import os
import platform
import signal
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.errors import RunFailed
from jobs.execution.placement import Placement
from jobs.execution.retry import Failed
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from vr_core.config import plain
from vr_core.errors import StorageError, UserError, VrError

if TYPE_CHECKING:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


def fit(
    run: RunFolder, recipe: Recipe, attempt: int, number: int, placement: Placement, loop: str, been: Collection[str]
) -> dict[str, Any]:
    """Start number `number` within an attempt: one `fit()` of Ray Train.

    Args:
        run: what is trained.
        recipe: of it.
        attempt: of the run.
        number: of the start.
        placement: of the workers.
        loop: as of `WorkerSpec`.
        been: host names of PCs that have trained in the run before.

    Returns:
        What `jobs.execution.worker.work` returned on rank 0.

    Raises:
        ray.train.TrainingFailedError: a worker or Ray Train's controller failed.
    """
    from jobs.execution.reservations import release_abandoned

    if released := release_abandoned():
        print(f"run {run.id}: gave back what {len(released)} start(s) of ended jobs still held", flush=True)
    result: Any = trainer(run, recipe, attempt, number, placement, loop, been).fit()
    returned: dict[str, Any] = result.return_value
    return returned


def trainer(
    run: RunFolder, recipe: Recipe, attempt: int, number: int, placement: Placement, loop: str, been: Collection[str]
) -> "DataParallelTrainer":
    """Ray Train's trainer of one start, as `fit` describes it; making it imports `ray.train`, and no torch."""
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from jobs.execution.process_group import ProcessGroup
    from jobs.execution.worker import WorkerSpec, work

    spec = WorkerSpec(
        run=run.path, recipe=recipe, attempt=attempt, fit=number, been=tuple(sorted(been)),
        use_gpu=placement.use_gpu, loop=loop,
    )  # fmt: skip
    return DataParallelTrainer(
        work,
        train_loop_config=plain(spec),
        backend_config=ProcessGroup("nccl" if placement.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=len(placement.selectors),
            use_gpu=placement.use_gpu,
            resources_per_worker=placement.resources,
            label_selector=placement.selectors,
        ),
        run_config=RunConfig(  # type: ignore[arg-type]  # annotated with the class that V2's replaces
            # The name is new at every start: Ray Train must never restore anything of its own; the loop resumes.
            name=f"{run.id}.a{attempt}.{number}",
            storage_path=str(run.attempt_folder(attempt)),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
        ),
    )


def end_fit() -> None:
    """End this driver's fit at once, without waiting for workers that wait for a PC that is gone.

    Ray Train has no such call. Its controller runs beside the driver and owns the workers: when it is killed, `fit`
    raises, the workers on the other PCs end within a second and their resources are free (Ray 2.60, measured), also
    where they hang in a collective.
    """
    import ray
    from ray._private.state import actors  # the table of the GCS: no dashboard needed

    job = ray.get_runtime_context().get_job_id()
    for actor in actors().values():
        if actor["ActorClassName"] == "TrainController" and actor["JobID"] == job and actor["State"] == "ALIVE":
            with contextlib.suppress(ProcessLookupError):
                os.kill(actor["Pid"], signal.SIGKILL)


@dataclass(frozen=True)
class Fits:
    """How the supervisor starts a run's workers, and how it ends them at once: with Ray Train, unless told otherwise.

    Tests give others, which take steps in one process.
    """

    start: Callable[[RunFolder, Recipe, int, int, Placement, str, Collection[str]], dict[str, Any]] = fit
    """As `fit`: returns when the workers have ended, or raises; called in a thread of its own."""
    end: Callable[[], None] = end_fit
    """As `end_fit`: `start` raises soon after."""


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


def carried(failures: Mapping[int, BaseException], told: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Words of the ranks that could not write them, since their PC does not see the run's folder: Ray has them."""
    written = {t["rank"] for t in told}
    unsaid = {rank: failure for rank, failure in failures.items() if rank not in written}
    return [words(failure, rank) for rank, failure in unsaid.items() if isinstance(failure, VrError)]


def first_cause(told: Sequence[dict[str, Any]], silent: Collection[int], step: int, fallback: str) -> Failed:
    """The failure that made the others.

    Args:
        told: What ranks said before they ended (`words`).
        silent: Ranks that failed without a word: their process died.
        step: Step of the newest checkpoint.
        fallback: What Ray says.
    """
    told = [{**t, "message": _placed(t)} for t in told]
    final = sorted((t for t in told if t["final"]), key=lambda t: (not t["user_error"], t["time_s"]))
    if final:
        return Failed(step, final[0]["message"], final=True, user_error=final[0]["user_error"])
    away = [t for t in told if t.get("storage")]
    if away:  # the others only lost their connection to it
        return Failed(step, min(away, key=lambda t: t["time_s"])["message"], storage=True)
    if silent:
        # The others only lost their connection to it.
        ranks = ", ".join(str(rank) for rank in sorted(silent))
        return Failed(step, f"worker {ranks} died: its machine, its network or its memory")
    if told:
        return Failed(step, min(told, key=lambda t: t["time_s"])["message"].splitlines()[0][:300])
    return Failed(step, fallback[:300])


def _placed(told: Mapping[str, Any]) -> str:
    """The message, with the PC's name where that is another one: `no such folder` may be true there alone."""
    message: str = told["message"]
    return message if told["host"] == platform.node() else f"{told['host']}: {message}"
