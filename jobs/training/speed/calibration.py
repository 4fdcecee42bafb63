"""How fast all ranks compute the items of each phase: measured at a start, kept for the next one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dataprep.batches.order import Order
from dataprep.shards.dataset import Dataset
from jobs.steps.gradient import ItemLosses
from jobs.steps.phases import Phase, phase_at
from jobs.steps.shares import Speed
from jobs.steps.state import TrainState
from jobs.steps.step_plan import StepPlan
from jobs.steps.world import World
from jobs.training.speed.kept import keep_or_note, keep_others, key_of, note_begin, note_end
from jobs.training.speed.measure import bytes_of, explained, speed_here, speeds_of_all, trying
from jobs.training.speed.memory import models_kept


class Calibration:
    """The speeds of all ranks in each phase that is not over, and where this PC keeps its own."""

    def __init__(
        self,
        phases: Sequence[Phase],
        state: TrainState,
        losses_of: ItemLosses,
        data: Dataset,
        world: World,
    ) -> None:
        """Measure what this PC has not kept, with the model as it is; enter the phase of the state's step.

        Args:
            phases: of the run.
            state: of this rank.
            losses_of: of the recipe.
            data: of the run.
            world: of this rank.
        """
        now = phase_at(phases, state.step)
        self._keys: dict[Phase, dict[str, Any]] = {}
        self._world = world
        self._noted: set[Phase] = set()
        self.speeds: dict[Phase, list[Speed]] = {}
        """Phase → speed of each rank."""
        for phase in phases[phases.index(now) :]:
            state.enter(phase)
            recipe = phase.recipe
            key = key_of(recipe, data.manifest.stft.bins, world.device, losses_of.bf16)
            order = Order.of(data.manifest, recipe.objective, recipe.seed, recipe.batch.crop_frames)
            # Two moments before the first step; weights, the average and what was restored are there already.
            moments = 0 if any(optimiser.state for optimiser in state.optimisers.values()) else 2
            more_bytes = int((moments + models_kept(recipe)) * bytes_of(state.model))
            speed = speed_here(
                recipe, key, state.model, losses_of, data, order, world.device, more_bytes=more_bytes
            )  # fmt: skip
            self._keys[phase], self.speeds[phase] = key, speeds_of_all(speed, world)
            if world.size > 1:
                keep_others(key, world.texts(key["device"]), self.speeds[phase])
        state.enter(now)

    @property
    def of_last_phase(self) -> list[Speed]:
        """Of each rank in the phase in which the run ends, which is the longest as a rule."""
        return self.speeds[max(self.speeds, key=lambda phase: phase.first_step)]

    def phase_begins(self, state: TrainState) -> None:
        """The state has entered another phase."""
        note_begin(self._key(state))

    def first_step_taken(self, state: TrainState) -> None:
        """What this rank computes at once in a phase has been enough for a step, or was not tried."""
        if state.phase is not None and state.phase not in self._noted:
            self._noted.add(state.phase)
            note_end(self._key(state))

    def keep(self, plan: StepPlan, step: int) -> None:
        """Keep what steps have corrected since, for the next start."""
        planned = plan.at(step)
        keep_or_note(self._keys[planned.phase], planned.pace.speeds[self._world.rank])

    @contextmanager
    def trying(self, state: TrainState) -> Iterator[None]:
        """Training goes on in the block: a rank that is killed before a phase's first step takes less the next time.

        So does one that is out of memory at any time.
        """
        device = self._key(state)["device"]
        with (
            explained(lambda: self._phase(state).recipe, lambda: self._never_fitted(state), device),
            trying(lambda: self._key(state)),
        ):
            yield

    def _never_fitted(self, state: TrainState) -> bool:
        """Whether this rank computes items of this phase one by one, and has taken no step of them."""
        phase = self._phase(state)
        return phase not in self._noted and self.speeds[phase][self._world.rank].micro_batch == 1

    @staticmethod
    def _phase(state: TrainState) -> Phase:
        assert state.phase is not None
        return state.phase

    def _key(self, state: TrainState) -> dict[str, Any]:
        return self._keys[self._phase(state)]
