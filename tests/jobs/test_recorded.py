"""The code as it is now computes what it computed when `tests/recorded/before` was made, and reads what it wrote."""

import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from tests.jobs import ranks
from tests.jobs.training import finish, last_weights
from tests.recorded.compare import BEFORE
from tests.recorded.folders import lay_out, require_as_undisturbed, run_called
from tests.recorded.runs import RUNS, curve, relative_difference, train_all, train_rank

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


def test_a_killed_run_of_local_steps_goes_on_with_its_workers_parts(tmp_path):
    """From a checkpoint whose deltas are under way (`tests/recorded/kept`)."""
    run = run_called("local", lay_out(tmp_path))
    finish(ranks.group(partial(train_rank, run.path), 2, tmp_path / "meeting"))
    require_as_undisturbed(run, "local", WITHIN)
