"""The ranks of a training run as processes, forked from one that has imported torch already."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataprep.shards.dataset import Dataset

_CONTEXT = multiprocessing.get_context("forkserver")
# DistributedDataParallel and optimisers import torch's compiler, which takes each rank two seconds otherwise.
_CONTEXT.set_forkserver_preload(["jobs.training.loop", "torch._dynamo", "tests.jobs.ranks"])


class Rank:
    """One process, as `subprocess.Popen` has it."""

    def __init__(self, *arguments: object) -> None:
        self._process = _CONTEXT.Process(target=_in_group, args=arguments)
        self._process.start()

    def poll(self) -> int | None:
        """Its exit code; None while it lives."""
        return self._process.exitcode

    def wait(self, timeout: float | None = 120) -> int:
        """Its exit code, once it has ended."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still there after {timeout} s"
        return self._process.exitcode

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._process.kill()
        self._process.join()


def start(run: Path, world: int, meeting: Path, own_disks: bool = False) -> list[Rank]:
    """As many ranks of the run in that folder; they meet at a file that does not exist yet."""
    return group(partial(rank_main, run, own_disks), world, meeting)


def group(work: Callable[[int, int], object], world: int, meeting: Path) -> list[Rank]:
    """`work(rank, world)`, a function of a module, in as many ranks of a gloo group."""
    return [Rank(work, rank, world, meeting) for rank in range(world)]


def _in_group(work: Callable[[int, int], object], rank: int, world: int, meeting: Path) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
        )
    work(rank, world)
    if world > 1:
        # gloo may abort while it closes connections that another rank has closed first: not what is tested here.
        dist.barrier()
        os._exit(0)


def rank_main(run: Path, own_disks: bool, rank: int, world: int) -> None:
    """Train as one rank; `own_disks`: only a folder `disk<rank>` is a disk of this rank's PC."""
    import torch

    from jobs.recipe import Recipe
    from jobs.steps.world import World
    from jobs.training.loop import train
    from jobs.training.storage import open_data
    from vr_core.config import load

    opens = partial(_with_own_disks, run, rank) if own_disks else open_data
    recipe, cpu = load(Recipe, run / "recipe.yaml"), torch.device("cpu")
    train(recipe, run, World(rank, world, cpu), opens=opens)


def end_fork_server() -> None:
    """End the processes that this module has started, where it has."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]  # nothing public ends them
    multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def _with_own_disks(run: Path, rank: int, folder: Path, cache: object, version: str | None) -> "Dataset":
    """The data set; which disk each read goes to is noted in the run's folder."""
    from dataclasses import replace

    from dataprep.shards.dataset import Dataset
    from dataprep.shards.roots import Roots

    class Noting(Dataset):
        def read(self, song: str, role: Any, start_frame: int, frames: int, out: Any) -> None:
            shard = self.song(song).stems[role].shard
            place = self.roots.find(shard, self.manifest.shards[shard])
            with open(run / f"reads-{rank}", "a") as file:
                file.write(f"{place.parent.name}\n")
            super().read(song, role, start_frame, frames, out)

    roots = replace(Roots.of(folder), is_local=lambda at: at.name == f"disk{rank}")
    return Noting.open(folder, version=version, roots=roots)
