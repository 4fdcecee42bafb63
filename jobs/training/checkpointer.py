"""The checkpoints of one start of a run: on the share, and copies on each PC's own disk where the recipe asks."""

import contextlib
import math
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from dataprep.shards.dataset import Dataset
from jobs.checkpoints.background import BackgroundCheckpoints, Written
from jobs.checkpoints.local_copies import OwnDisk, copies_of
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.note import note
from jobs.runs.starts import Start
from jobs.steps.decision import Destination, Ending
from jobs.steps.state import TrainState
from jobs.steps.world import World
from jobs.sync.sync import Sync
from jobs.training.lineage import describe
from vr_core.weights import WeightsMeta


class Checkpointer:
    """Says when one is due by the clock, and writes them in the background; a context manager."""

    def __init__(
        self,
        run: RunFolder,
        recipe: Recipe,
        start: Start,
        data: Dataset,
        sync: Sync,
        kept: dict[str, Any] | None,
        world: World,
    ) -> None:
        """Of `run`.

        Args:
            run: its folder.
            recipe: of it.
            start: of its workers.
            data: whose version and spectrograms a checkpoint names.
            sync: how ranks become one.
            kept: of the choice that it comes from.
            world: of this rank.
        """
        self._run, self._recipe, self._data, self._sync, self._kept, self._world = run, recipe, data, sync, kept, world
        rounds = sync.name == "diloco"
        self._share = self._disk = None
        if world.rank == 0 or rounds:
            self._share = BackgroundCheckpoints(run, recipe.checkpoint.keep, note, start)
        if recipe.checkpoint.own_disk_every_s is not None:
            copies = copies_of(run)
            if copies is not None and not rounds:
                self._disk = OwnDisk(copies, world.rank, start, note)
            if rounds and world.rank == 0:
                note(f"no copies on the PCs' own disks: with sync {sync.name} none of them has all of a checkpoint")
        if world.rank == 0:
            with contextlib.suppress(OSError):  # the first checkpoint will say so
                run.checkpoints.mkdir(exist_ok=True)
        # Of this rank's own: others may see nothing of `init`.
        writes = world.rank == 0 or self._disk is not None
        self._meta: WeightsMeta | None = describe(run, recipe, data.manifest, note) if writes else None
        self._saved_s = self._copied_s = time.monotonic()

    def wishes(self) -> dict[str, bool]:
        """`save` and `save_here` by the clock of rank 0.

        Only where the one before is written: a slow share makes checkpoints rarer, not steps.
        """
        if self._world.rank or self._share is None:
            return {}
        now_s, spec = time.monotonic(), self._recipe.checkpoint
        here_s = spec.own_disk_every_s or math.inf
        return {
            "save": now_s - self._saved_s > spec.every_s and not self._share.busy,
            "save_here": self._disk is not None and now_s - self._copied_s > here_s and not self._disk.busy,
        }

    def save(self, to: Destination, state: TrainState, validation_loss: float | None, *, best: bool) -> None:
        """Copy the state in memory and go on; it is written meanwhile.

        Raises:
            StorageError: the one before could not be written.
        """
        with self._sync.clock.paused():
            self._save(to, state, validation_loss, best)

    def _save(self, to: Destination, state: TrainState, validation_loss: float | None, best: bool) -> None:
        self._copied_s = time.monotonic()
        own = self._sync.own(state)
        if self._share and self._world.rank and own:
            self._share.save_part(state.step, self._world.rank, own)
        writer: BackgroundCheckpoints | None = self._disk
        if to == "share":
            self._saved_s = self._copied_s
            writer = self._share if self._world.rank == 0 else None
        if writer is None:
            return
        assert self._meta is not None, "a rank that writes has described what"
        meta = self._meta.model_copy(update={"step": state.step})
        saved = state.saved(self._data.manifest.digest(), self._kept, self._world.size, self._sync.common())
        writer.save(
            state.weights(self._sync.agreed), saved.to_dict(), meta, saved.position, validation_loss, best,
            self._world.size - 1 if own else 0,
        )  # fmt: skip

    def end(self, how: Ending) -> None:
        """Wait for what is being written; copies of a run that is over are removed.

        Raises:
            StorageError: it could not be written.
        """
        if self._share is not None:
            self._share.wait()
        if self._disk is not None and how in ("finished", "stopped"):
            self._disk.forget()

    def written(self) -> Iterator[Written]:
        """What has been written to the share since the last call."""
        return iter(self._share.written() if self._share is not None else ())

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for writer in (self._disk, self._share):
            if writer is not None:
                writer.__exit__(kind, error, at)
