"""What is computed without training is computed in evaluation mode, whatever mode the model was left in."""

import pytest
import torch

from dataprep.batches.loader import read_batch
from dataprep.batches.order import Order
from dataprep.shards.dataset import Dataset
from jobs.recipe import Recipe
from jobs.steps.gradient import ItemLosses, evaluating
from jobs.steps.state import TrainState
from tests.masking import Masking
from tests.recorded.compare import BEFORE
from vr_core.specs.optim import OptimSpec

CPU = torch.device("cpu")


class HalfTrained(Masking):
    """A mask, from a part that is trained and one that is kept in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.trained, self.kept = torch.nn.Dropout(0.5), torch.nn.Dropout(0.5).eval()
        self.modes = []

    def mask(self, magnitude):
        self.modes.append((self.training, self.trained.training, self.kept.training))
        return torch.full_like(magnitude, 0.5)


@pytest.mark.parametrize("training", [True, False])
def test_a_loss_without_training_is_computed_in_evaluation_mode(training):
    data, recipe = Dataset.open(BEFORE / "data"), Recipe(name="a", steps=1)
    order = Order.of(data.manifest, recipe.objective, recipe.seed, 16)
    model = HalfTrained()
    ItemLosses(recipe, CPU, bf16=False).terms(model, read_batch(data, order.items(0, 2)), training=training)
    assert model.modes == [(training, training, False)]
    assert (model.training, model.trained.training, model.kept.training) == (True, True, False)


def test_modes_come_back_when_the_computation_fails():
    model = HalfTrained()
    with pytest.raises(RuntimeError, match="no memory"), evaluating(model):
        raise RuntimeError("no memory")
    assert (model.training, model.trained.training, model.kept.training) == (True, True, False)


@pytest.mark.parametrize("ema_decay", [0, 0.9])
def test_what_is_evaluated_is_in_evaluation_mode_with_and_without_an_average(ema_decay):
    model = HalfTrained()
    state = TrainState(Recipe(name="a", steps=1, optim=OptimSpec(ema_decay=ema_decay)), model, {})
    with state.shown(model) as shown:
        assert not any(module.training for module in shown.modules())
    assert (model.training, model.trained.training, model.kept.training) == (True, True, False)
