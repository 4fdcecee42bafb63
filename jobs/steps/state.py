"""What a run is made of between two steps: model, optimisers, moving average, and how far it has come."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dataprep.shards.dataset import Dataset
from jobs.checkpoints.format import Checkpoint
from jobs.errors import NotACheckpoint, RunFailed
from jobs.recipe import Recipe
from jobs.recipes.checks import require_hearable
from jobs.steps.gradient import evaluating, weights_dtype
from jobs.steps.initial_weights import start_from
from jobs.steps.phases import Phase
from vr_core.errors import ConfigError
from vr_core.loading import load_state
from vr_core.lora import adapt, copy_of
from vr_core.models.registry import build
from vr_core.optim import WeightAverage, freeze, global_norm, set_rates
from vr_core.optimisers import MAIN, mean_weights, optimisers_of


@dataclass(frozen=True)
class TrainingFile:
    """`training.pt` of a checkpoint: all that a run needs to go on, besides the weights that one uses."""

    model: dict[str, Tensor]
    optimisers: dict[str, dict[str, Any]]
    step: int
    skipped_in_a_row: int
    position: int
    """Items of the order that are done."""
    data: str
    """Digest of the data set's version that the run began with."""
    exchange: dict[str, Any] | None
    """How workers become one, as it was chosen at the run's first start; None where nothing is settled yet."""
    world: int
    """Ranks of then."""
    diloco: dict[str, Any] | None
    """What all ranks have in common with `sync: diloco`."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """What one uses, from the file beside it; only where it was read."""
    folder: Path | None = None
    """Where it was read."""
    optim: str = "adamw"
    """Name of the recipe's optimiser."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, items: int) -> "TrainingFile":
        """As read; `items` are those of a step.

        Raises:
            NotACheckpoint: its position is not that of its step.
        """
        raw = checkpoint.training
        found = cls(
            raw["model"], {MAIN: raw["optimiser"], **raw.get("optimisers", {})}, int(raw["step"]),
            int(raw["skipped_in_a_row"]), int(raw["position"]), raw["data"], raw.get("exchange"),
            int(raw.get("world", 1)), raw.get("diloco"), checkpoint.weights, checkpoint.folder,
            raw.get("optim", "adamw"),
        )  # fmt: skip
        positions = {found.position, checkpoint.row.position}
        if positions != {found.step * items}:
            raise NotACheckpoint(
                f"{checkpoint.folder}: step {found.step} of {items} items each is at position {found.step * items}, "
                f"the checkpoint says {', '.join(map(str, sorted(positions)))}; delete it to go on from an earlier one"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """As written: `optimiser` is the main one, `optimisers` are the others."""
        others = {name: state for name, state in self.optimisers.items() if name != MAIN}
        return {
            "model": self.model, "optimiser": self.optimisers[MAIN], "optimisers": others, "step": self.step,
            "skipped_in_a_row": self.skipped_in_a_row, "position": self.position, "data": self.data,
            "exchange": self.exchange, "world": self.world, "diloco": self.diloco, "optim": self.optim,
        }  # fmt: skip


class TrainState:
    """One rank's; `step` counts the steps that are done, skipped ones too."""

    def __init__(self, recipe: Recipe, model: nn.Module, optimisers: dict[str, torch.optim.Optimizer]) -> None:
        """Before the first step and the first phase; the optimisers hold what requires a gradient."""
        self.model, self.optimisers = model, optimisers
        decay = recipe.optim.ema_decay
        self.kept = _kept(model, recipe)
        """Names of the weights that checkpoints hold and workers exchange: all, or those that LoRA trains."""
        self.average = WeightAverage(model, decay, self.kept) if decay else None
        self.step, self.skipped_in_a_row = 0, 0
        self.phase: Phase | None = None
        self._recipe = recipe
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        """Name → parameter of all that some phase trains: the others of a phase have no gradients in it."""
        self._rate = 0.0
        self._shown: nn.Module | None = None

    @classmethod
    def begin(
        cls,
        recipe: Recipe,
        data: Dataset,
        device: torch.device,
        saved: "TrainingFile | None",
        note: Callable[[str], None] = lambda line: None,
    ) -> "TrainState":
        """The state of a run at a start: from a checkpoint, else from the recipe's `init`, else from its seed.

        With LoRA the recipe's `init` holds what a checkpoint has not. `note` is called with a line for each head that
        is not as in `init`.

        Raises:
            ConfigError, ManifestError, WeightsError: recipe, data set and start do not fit together.
        """
        require_hearable(recipe, data.manifest)
        torch.manual_seed(recipe.seed)  # initial weights only: nothing later draws from it
        model = build(recipe.model, recipe.model.front.bins_on(data.manifest.stft), recipe.objective.head)
        if recipe.init is not None and (saved is None or recipe.lora is not None):
            start_from(model, recipe.init, recipe.init_reset, data, recipe.init_part, note)
        if recipe.lora is not None:
            adapt(model, recipe.lora)
        model.to(device, weights_dtype(recipe))
        state = cls(recipe, model, optimisers_of(model, recipe.optim))
        if saved is not None:
            state._restore(saved)
        return state

    def _restore(self, saved: "TrainingFile") -> None:
        load_state(self.model, saved.model, f"checkpoint of step {saved.step}", self._wanted)
        own = self._recipe.optim.name
        if saved.optim != own:
            raise ConfigError(
                f"optim.name {own}: step {saved.step} of this run was trained with {saved.optim}, and a run keeps its "
                f"optimiser; put that back, or start a new run with init={saved.folder}"
            )
        for name in self.optimisers.keys() & saved.optimisers.keys():  # one that is new begins afresh
            self.optimisers[name].load_state_dict(saved.optimisers[name])
        if self.average is not None:
            for name, value in self.average.weights.items():
                value.copy_(saved.weights[name])
        self.step, self.skipped_in_a_row = saved.step, saved.skipped_in_a_row

    @property
    def learning_rate(self) -> float:
        """Of the last step that was taken."""
        return self._recipe.optim.lr * self._rate

    def enter(self, phase: Phase) -> bool:
        """Train what this phase trains; whether that is another one than before.

        Raises:
            ConfigError: a pattern of `optim.freeze` or `optim.unfreeze` names nothing.
        """
        if phase == self.phase:
            return False
        self.phase = phase
        freeze(self.model, phase.recipe.optim.freeze)
        return True

    def gradient_norm(self) -> Tensor:
        """L2 norm over all gradients, a scalar; not finite when any gradient is not."""
        return global_norm(list(self.trained.values()))

    def update(self, norm: Tensor, rate: float) -> None:
        """Take one optimiser step.

        Args:
            norm: of the gradients, which are clipped by it.
            rate: learning rate as a share of the peak.
        """
        self._rate = rate
        torch.nn.utils.clip_grads_with_norm_(self.trained.values(), self._recipe.optim.clip_norm, norm)
        for optimiser in self.optimisers.values():
            set_rates(optimiser, self._recipe.optim.lr, rate)
            optimiser.step()
        self._clear_gradients()
        self.step, self.skipped_in_a_row = self.step + 1, 0

    def skip(self, rate: float, where: str) -> None:
        """Count a step whose loss or gradient is not finite, and change nothing else.

        Args:
            rate: as for `update`.
            where: for the user.

        Raises:
            RunFailed: these were more in a row than the recipe allows.
        """
        self._rate = rate
        self._clear_gradients()
        self.step, self.skipped_in_a_row = self.step + 1, self.skipped_in_a_row + 1
        if self.skipped_in_a_row > self._recipe.nonfinite_limit:
            raise RunFailed(f"{self.skipped_in_a_row} steps in a row without a finite loss or gradient; {where}")

    def _clear_gradients(self) -> None:
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)

    def average_in(self, weights: nn.Module, steps: int = 1) -> None:
        """Take `weights` into the moving average, where there is one: the first look at them for `steps` steps."""
        if self.average is not None:
            self.average.update(weights, self.step, steps)

    @contextmanager
    def shown(self, agreed: nn.Module) -> Iterator[nn.Module]:
        """What a user gets, to evaluate: a mean of the weights, else `agreed`, which all ranks share."""
        if self.average is None and not self._averages_itself:
            with evaluating(agreed):
                yield agreed
            return
        if self._shown is None:
            self._shown = copy_of(agreed).eval()
        self._shown.load_state_dict(self.weights(agreed), strict=self._wanted is None)
        yield self._shown

    def own(self) -> dict[str, Any]:
        """This rank's weights and moments, for a file of its own in a checkpoint."""
        others = {name: of.state_dict() for name, of in self.optimisers.items() if name != MAIN}
        return {
            "model": self.kept_of(self.model), "optimiser": self.optimisers[MAIN].state_dict(), "optimisers": others,
        }  # fmt: skip

    def restore_own(self, part: dict[str, Any], origin: str) -> None:
        """Go on from what `own` gave.

        Raises:
            WeightsError: it does not fit the model.
        """
        load_state(self.model, part["model"], origin, self._wanted)
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(part["optimiser"] if name == MAIN else part["optimisers"][name])

    def saved(
        self, data: str, exchange: dict[str, Any] | None, world: int, diloco: dict[str, Any] | None
    ) -> TrainingFile:
        """All of it for a checkpoint; the arguments as in `TrainingFile`."""
        return TrainingFile(
            self.kept_of(self.model), {name: of.state_dict() for name, of in self.optimisers.items()}, self.step,
            self.skipped_in_a_row, self.step * self._recipe.batch.items, data, exchange, world, diloco,
            optim=self._recipe.optim.name,
        )  # fmt: skip

    def weights(self, agreed: nn.Module) -> dict[str, Tensor]:
        """What `shown` shows, as a state dict."""
        if self.average is not None:
            return self.average.weights
        if self._averages_itself:
            return {**self.kept_of(agreed), **mean_weights(agreed, self.optimisers[MAIN])}
        return self.kept_of(agreed)

    @property
    def _averages_itself(self) -> bool:
        return self._recipe.optim.name == "schedule_free"

    def kept_of(self, model: nn.Module) -> dict[str, Tensor]:
        """What a checkpoint holds of the weights of `model`, which is this one or a copy."""
        return {name: value for name, value in model.state_dict().items() if name in self.kept}

    @property
    def fixed(self) -> frozenset[str]:
        """Names of weights and buffers that are the same on every rank from the first step to the last."""
        if self._recipe.lora is None:
            return frozenset()
        named = (*self.model.named_parameters(), *self.model.named_buffers())
        return frozenset(name for name, _ in named) - self.kept

    @property
    def _wanted(self) -> frozenset[str] | None:
        """What weights of this run must name; None: all of the model's."""
        return self.kept if self._recipe.lora is not None else None


def _kept(model: nn.Module, recipe: Recipe) -> frozenset[str]:
    if recipe.lora is None:
        return frozenset(model.state_dict())
    fixed: frozenset[str] = model.frozen_base  # type: ignore[assignment]
    return frozenset(name for name, _ in model.named_parameters()) - fixed
