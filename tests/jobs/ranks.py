"""The ranks of a training run as processes, forked from one that has imported torch already."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
from datetime import timedelta
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["jobs.train", "tests.jobs.ranks"])


class Rank:
    """One process, as `subprocess.Popen` has it."""

    def __init__(self, *arguments: object) -> None:
        self._process = _CONTEXT.Process(target=rank_main, args=arguments)
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
    return [Rank(run, rank, world, meeting, own_disks) for rank in range(world)]


def rank_main(run: Path, rank: int, world: int, meeting: Path, own_disks: bool) -> None:
    """Train as one rank of a gloo group; `own_disks`: only a folder `disk<rank>` is a disk of this rank's PC."""
    import torch
    import torch.distributed as dist

    from jobs.recipe import Recipe
    from jobs.train import train
    from vr_core.config import load

    torch.set_num_threads(1)
    if own_disks:
        _own_disks(run, rank)
    if world > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world, timeout=timedelta(seconds=60)
        )
    train(load(Recipe, run / "recipe.yaml"), run, rank=rank, world=world, device=torch.device("cpu"), report=None)
    if world > 1:
        # gloo may abort while it closes connections that another rank has closed first: not what is tested here.
        dist.barrier()
        os._exit(0)


def end_fork_server() -> None:
    """End the processes that this module has started, where it has."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]  # nothing public ends them
    multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def _own_disks(run: Path, rank: int) -> None:
    import dataprep.roots
    from dataprep.dataset import Dataset

    dataprep.roots._is_local = lambda folder: folder.name == f"disk{rank}"
    read = Dataset.read

    def noted(self, song, role, start, frames, out):
        with open(run / f"reads-{rank}", "a") as file:
            file.write(self._path(self.song(song).stems[role].shard).parent.name + "\n")
        read(self, song, role, start, frames, out)

    Dataset.read = noted
