"""How a run's ranks become one, chosen once from what was measured, and which of them are worth having."""

from collections.abc import Sequence
from typing import Any

from jobs.recipe import POWERSGD_IS_GONE, Recipe, SyncName
from jobs.steps.decision import Exclusion
from jobs.steps.gradient import ItemLosses
from jobs.steps.shares import (
    Exchange,
    Speed,
    behind_steps,
    choice_said,
    choose_sync,
    cut_shares,
    exchange_of,
    longest_s,
    ring_s,
    step_s,
    worth_keeping,
)
from jobs.steps.state import TrainingFile, TrainState
from jobs.steps.world import World
from jobs.sync.busy_clock import BusyClock
from jobs.sync.ddp import Ddp
from jobs.sync.diloco import Diloco
from jobs.sync.links import links_bytes_per_s
from jobs.sync.sync import Sync
from vr_core.errors import ConfigError


class SyncChoice:
    """A run's ranks: what they bring, how they become one, and who is excluded."""

    def __init__(
        self,
        recipe: Recipe,
        state: TrainState,
        speeds: Sequence[Speed],
        world: World,
        kept: dict[str, Any] | None,
    ) -> None:
        """Measure the links, where an answer depends on them.

        Args:
            recipe: of the run.
            state: whose parameters travel.
            speeds: of all ranks.
            world: of this rank.
            kept: `kept` of the run's start before.

        Raises:
            ConfigError: the run has chosen a way that is no more.
        """
        machines = world.machines()
        least = recipe.nodes.min if recipe.nodes is not None else len(set(machines))
        measured = world.size > 1 and recipe.workers.shares == "measured"
        self._machines, self._least = machines, least
        self._may_exclude = measured and recipe.nodes is not None and recipe.nodes.leave_out
        # Once in a run is enough to tell its user.
        self._may_advise = measured and not self._may_exclude and kept is None
        chosen: SyncName | None = kept["sync"] if kept else None
        if chosen == "powersgd":
            raise ConfigError(f"recipe {recipe.name}: {POWERSGD_IS_GONE}")
        behind: int | None = kept["behind_steps"] if kept else recipe.diloco.behind_steps
        ways = recipe.sync_choices if chosen is None else (chosen,)
        may_choose = world.size > 1 and len(ways) > 1
        how_far = world.size > 1 and behind is None and "diloco" in ways
        needs = self._may_exclude, self._may_advise, may_choose, how_far
        self._links = links_bytes_per_s(world) if any(needs) else []
        self._items = recipe.batch.items
        trained = state.trained
        self._exchanges: dict[SyncName, Exchange] = {
            way: exchange_of(
                way, recipe, [p.shape for p in trained.values()], next(iter(trained.values())).element_size()
            )
            for way in ways
        }
        self.predicted_s: dict[SyncName, float] = {}
        """Way → seconds of a step, where there was something to choose."""
        if may_choose:
            self.predicted_s = {way: step_s(speeds, self._items, self._exchanges[way], self._links) for way in ways}
            chosen = choose_sync(self.predicted_s)
        if chosen is None and len(ways) == 1:
            chosen = ways[0]
        if chosen == "diloco" and how_far:
            computing_s = longest_s(speeds, cut_shares(speeds, self._items))
            behind = behind_steps(
                ring_s(self._exchanges["diloco"].sent_bytes, self._links), computing_s, recipe.diloco.every_steps
            )
        self.name: SyncName = chosen or ways[0]
        """A rank alone has nothing to choose, and takes the most exact."""
        self.behind_steps = behind or 0
        """With `diloco`: steps that go on while weights travel."""
        settled = chosen is not None and (chosen != "diloco" or behind is not None)
        self.kept = {"sync": chosen, "behind_steps": behind} if settled else None
        """What the run's later starts go by: chosen once, from what was measured then."""
        self.exclusion = self.excluded(speeds)
        """Ranks that the run is better without from the start."""
        self.idle = self._slower_with(speeds, 1) if self._may_advise else None
        """The same of a run that keeps all of its ranks whatever they cost, told to its user at its first start."""

    @property
    def said(self) -> str:
        """What was chosen and why, in a line; empty where there was nothing to choose."""
        return f"sync: {choice_said(self.name, self.predicted_s)}" if self.predicted_s else ""

    def excluded(self, speeds: Sequence[Speed]) -> Exclusion | None:
        """Which ranks, at these speeds, make a step longer than it would be without them; the same on every rank."""
        return self._slower_with(speeds, self._least) if self._may_exclude else None

    def _slower_with(self, speeds: Sequence[Speed], least: int) -> Exclusion | None:
        kept = worth_keeping(speeds, self._items, self._exchanges[self.name], self._links, least, self._machines)
        ranks = tuple(rank for rank in range(len(speeds)) if rank not in kept.workers)
        return Exclusion(ranks, kept.all_s, kept.step_s) if ranks else None

    def sync(
        self, recipe: Recipe, state: TrainState, losses_of: ItemLosses, world: World, saved: TrainingFile | None
    ) -> Sync:
        """What was chosen, ready to go on from `saved`.

        Raises:
            NotACheckpoint, StorageError: as `Sync.restore`.
        """
        clock = BusyClock(world.device)
        sync: Sync = Ddp(self.name, losses_of, world, clock)
        if self.name == "diloco":
            sync = Diloco(recipe, state, self.behind_steps, losses_of, world, clock)
        if saved is not None:
            sync.restore(saved, state)
        return sync
