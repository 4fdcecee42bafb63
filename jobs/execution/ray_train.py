"""One start of Ray Train's workers, and what to make of its failure."""

import contextlib
import os
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.execution.messages import WorkerSpec
from jobs.execution.placement import Placement
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from vr_core.config import plain

if TYPE_CHECKING:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


def fit(
    run: RunFolder,
    recipe: Recipe,
    attempt: int,
    number: int,
    placement: Placement,
    loop: str,
    previous_hosts: Collection[str],
) -> dict[str, Any]:
    """Start number `number` within an attempt: one `fit()` of Ray Train.

    Args:
        run: what is trained.
        recipe: of it.
        attempt: of the run.
        number: of the start.
        placement: of the workers.
        loop: as of `WorkerSpec`.
        previous_hosts: host names of PCs that have trained in the run before.

    Returns:
        What `jobs.execution.worker.work` returned on rank 0.

    Raises:
        ray.train.TrainingFailedError: a worker or Ray Train's controller failed.
    """
    result: Any = trainer(run, recipe, attempt, number, placement, loop, previous_hosts).fit()
    returned: dict[str, Any] = result.return_value
    return returned


def trainer(
    run: RunFolder,
    recipe: Recipe,
    attempt: int,
    number: int,
    placement: Placement,
    loop: str,
    previous_hosts: Collection[str],
) -> "DataParallelTrainer":
    """Ray Train's trainer of one start, as `fit` describes it; making it imports `ray.train`, and no torch."""
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from jobs.execution.worker import work
    from jobs.sync.process_group import ProcessGroup

    spec = WorkerSpec(
        run=run.path, recipe=recipe, attempt=attempt, fit=number, previous_hosts=tuple(sorted(previous_hosts)),
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
