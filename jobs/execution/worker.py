"""What runs inside each Ray Train worker: the training loop, and the two things it tells the supervisor.

Both go through the run's folder: who the workers are (`attempts/N/machines-K.json`) and why they failed
(`attempts/N/error-K-rank-R.json`). Ray carries exceptions too, but as the text of a traceback.

The driver imports this module to name what its workers call, so torch is imported where they call it.
"""

import contextlib
import importlib
import math
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.execution.messages import WorkerSpec, words
from jobs.execution.placement import machine_name
from jobs.runs.folder import RunFolder
from jobs.runs.starts import Start
from vr_core.config import validate
from vr_core.errors import StorageError, UserError
from vr_core.files import write_json

if TYPE_CHECKING:
    import torch

    from jobs.steps.decision import Ended


def work(config: dict[str, Any]) -> dict[str, Any]:
    """Train as one rank; the returned mapping of rank 0 reaches the supervisor.

    Returns:
        `ended`: how the loop did (`jobs.steps.decision.Ending`), and its figures; where it is `excluded`, the
        `ranks` without which a step takes `without_s` instead of `with_s`.
    """
    import ray.train
    import ray.train.torch
    import torch

    from jobs.steps.world import World

    spec = validate(WorkerSpec, config, "worker")
    run = RunFolder(spec.run)
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device() if spec.use_gpu else torch.device("cpu")
    # Ray gives a worker one thread unless told otherwise; the recipe says how many cores it has.
    torch.set_num_threads(spec.recipe.workers.cpus)
    folder, root = run.attempt_folder(spec.attempt), run.root
    try:
        require_folders(folder, spec.recipe.data, platform.node() in spec.previous_hosts)
        mine = _announce(root, folder / f"machines-{spec.fit}.json", rank, size, device)
        world = World(rank, size, device, machine_name(mine))
        ended = _loop(spec.loop)(
            spec.recipe, run.path, world, _reporter(ray.train.report), start=Start(spec.attempt, spec.fit)
        )
    except BaseException as error:
        # Without the folder, Ray alone carries the error (jobs.execution.supervisor).
        with contextlib.suppress(OSError):
            write_json(folder / f"error-{spec.fit}-rank-{rank}.json", words(error, rank), root=root)
        raise
    exclusion = {} if ended.exclusion is None else asdict(ended.exclusion)
    return {"ended": ended.how, **ended.figures, **exclusion}


def require_folders(attempt: Path, data: Path | None, trained_here: bool) -> None:
    """What a worker needs from shared storage before it can train.

    Args:
        attempt: the folder of the run's attempt.
        data: the data set's, where the recipe names one.
        trained_here: whether this PC has trained in the run before, and so has seen both.

    Raises:
        StorageError: a folder that this PC has seen is not there: it may come back by itself.
        UserError: this PC does not see the run's folder; without it nothing can be written about it but this.
    """
    if not attempt.is_dir():
        missing = f"{platform.node()}: {attempt} is not there"
        if trained_here:
            raise StorageError(f"{missing} any more: is its share mounted?")
        raise UserError(f"{missing}; put out= on storage that every PC mounts at the same path")
    if trained_here and data is not None and not data.is_dir():
        raise StorageError(f"{data} is not there any more: is its share mounted?")


def _loop(name: str) -> "Callable[..., Ended]":
    module, _, function = name.partition(":")
    loop: Callable[..., Ended] = getattr(importlib.import_module(module), function)
    return loop


def _reporter(ray_report: Callable[[dict[str, float]], None]) -> Callable[[dict[str, float]], None]:
    """The loop's `report`; a NumPy scalar or a NaN in a report would break Ray Train's controller."""

    def report(metrics: dict[str, float]) -> None:
        ray_report({key: float(value) for key, value in metrics.items() if math.isfinite(value)})

    return report


def _announce(root: Path, file: Path, rank: int, world: int, device: "torch.device") -> dict[str, Any]:
    """Rank 0 writes what every rank computes on; its appearance says that all workers are running.

    Returns:
        What is written of this rank.
    """
    import ray
    import torch
    import torch.distributed as dist

    mine = {
        "rank": rank,
        "host": platform.node(),
        "labels": dict(ray.get_runtime_context().get_node_labels() or {}),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "pid": os.getpid(),
    }
    machines: list[Any] = [mine]
    if world > 1:
        machines = [None] * world
        dist.all_gather_object(machines, mine)
    if rank == 0:
        write_json(file, {"machines": machines}, root=root)
    return mine
