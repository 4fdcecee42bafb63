"""Every shipped recipe of invented songs that begins from nothing: some steps of it, then a song separated by it."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from jobs.recipes.shipped import read_recipe
from jobs.runs.creation import create_run
from jobs.runs.folder import RunFolder
from jobs.runs.lookup import resolve_weights
from jobs.runs.metrics import read_metrics
from tests.command_line import vr
from tests.jobs.songs_recipes import songs_recipes
from tests.jobs.training import here
from vr_core.models.figures import count_parameters
from vr_core.models.registry import MODELS, build
from vr_core.specs.stft import StftSpec

QUICK = ("songs-dense-frame-transformer", "songs-plain-stack", "songs-unet")
"""The others take longer, and are of the long tier."""
NAMES = songs_recipes()
MOST_PARAMETERS = 3_000_000
LARGER = ("songs-seed-frame-transformer",)
"""A block of it is as wide as the spectrogram."""


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three invented songs of 4 s with their data set, at the usual STFT."""
    folder = tmp_path_factory.mktemp("songs")
    vr("data", "synth", folder / "songs", "--songs", 3, "--seconds", 4)
    vr("data", "prepare", folder / "songs", "--out", folder / "data", "--split", "valid=0.34,test=0")
    return folder


def test_there_is_one_for_every_model() -> None:
    assert {read_recipe(name).model.name for name in NAMES} == MODELS.keys()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LARGER])
def test_it_is_small(name: str) -> None:
    recipe = read_recipe(name)
    with torch.device("meta"):
        model = build(recipe.model, recipe.model.front.bins_on(StftSpec()), recipe.objective.head)
    assert count_parameters(model) <= MOST_PARAMETERS


def trained(name: str, songs: Path, out: Path, *more: str) -> RunFolder:
    """A run of 20 small steps of a shipped recipe, with `more` keys replaced."""
    words = [
        f"data={songs / 'data'}", f"out={out / 'runs'}", "steps=20", "batch.items=2", "batch.crop_frames=32",
        "validation={every_steps: 20, items: 1}", "workers={device: cpu}", *more,
    ]  # fmt: skip
    run = create_run(read_recipe(name, words))
    here(run)
    return run


def test_a_convolutional_net_begins_where_its_pretraining_ended(songs: Path, tmp_path: Path) -> None:
    before = trained("songs-unet-pretrain", songs, tmp_path)
    after = trained("songs-unet", songs, tmp_path, f"init={before.path}", 'init_reset=["output.*"]', "optim.lr=1e-9")
    pretrained, tuned = (load_file(resolve_weights(run.path)) for run in (before, after))
    body = [name for name in pretrained if not name.startswith("output.")]
    assert all((tuned[name] - pretrained[name]).abs().max() < 1e-5 for name in body)
    assert (tuned["output.weight"] - pretrained["output.weight"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.long("vr_core/models", "jobs/recipes")) for n in NAMES],
)
def test_it_trains_and_separates(name: str, songs: Path, tmp_path: Path) -> None:
    run = trained(name, songs, tmp_path)
    steps = [row for row in read_metrics(run) if row["kind"] == "step"]
    assert steps[-1]["grad_norm"] > 1e-3  # of rectified amplitudes, all may be zero for good after some steps
    song = next((songs / "songs").rglob("*.wav"))
    done = vr("separate", song, "-m", run.path, "-o", tmp_path / "out", "--device", "cpu", "--json").stdout
    [row] = json.loads(done)["songs"]
    instrumental, vocals = (soundfile.read(row[stem])[0] for stem in ("instrumental", "vocals"))
    mixture = soundfile.read(song)[0]
    assert instrumental.shape == vocals.shape == mixture.shape
    assert np.abs(instrumental + vocals - mixture).max() < 1e-3
    assert np.abs(instrumental).max() > 0
