"""The code as it is now computes what it computed when `tests/recorded/before` was made, and reads what it wrote."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.jobs.training import last_weights
from tests.recorded.compare import BEFORE
from tests.recorded.runs import RUNS, curve, relative_difference, train_all

pytestmark = pytest.mark.xdist_group("ranks")

WITHIN = 1e-12
"""Relative: another CPU adds up in another order. `python -m tests.recorded.compare` asks for the same bits."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded")
    return train_all(shutil.copytree(BEFORE / "data", folder / "data"), folder)


@pytest.mark.parametrize("name", RUNS)
def test_losses_and_weights_are_those_of_before(name, trained):
    assert relative_difference(json.loads((BEFORE / f"{name}.json").read_text()), curve(trained[name])) < WITHIN
    before, now = load_file(BEFORE / f"{name}.safetensors"), last_weights(trained[name])
    assert set(now) == set(before)
    for key, value in before.items():
        torch.testing.assert_close(
            now[key], value, rtol=WITHIN, atol=WITHIN, msg=lambda text, key=key: f"{key}: {text}"
        )
