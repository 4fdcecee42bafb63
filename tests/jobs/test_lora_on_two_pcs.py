"""From somebody else's checkpoint to an instrumental by LoRA on two PCs in a box, one half as fast and killed once.

Each test goes on where the one before it ended. In float64 the factors are those of one process that was never
disturbed.
"""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from safetensors import safe_open

from jobs.checkpoints.format import step_folders
from jobs.recipes.shipped import read_recipe
from jobs.runs.folder import RunFolder
from tests.box.runs import PATIENCE_S, Run, pace, share_data, submit
from tests.foreign_checkpoints import BS_BANDS, roformer
from tests.jobs.training import distance, here, last_weights, new_run
from tests.lan import SHARED, await_true
from vr_core.loading import load_merged
from vr_core.specs.stft import StftSpec
from vr_core.weights import load_weights

pytestmark = [
    pytest.mark.xdist_group("box"),
    pytest.mark.ray,
    pytest.mark.long("vr_core", "jobs/training", "jobs/steps", "jobs/sync", "jobs/checkpoints"),
]

STEPS = 36
CHANGES = (
    f"steps={STEPS}", "precision=float64", "batch.items=6", "batch.micro_batch=3", "batch.crop_frames=12",
    "validation={every_steps: 36, items: 2}", "checkpoint={every_steps: 6, every_s: 1000000, keep: 99}",
    "nodes={min: 1, leave_out: false, labels: {vr/node: 'in(attic,study)'}}",
    "workers={device: cpu}", f"out={SHARED}/runs", "log.tensorboard=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def lan(standing_lan):
    """With a checkpoint of another program and its YAML in the shared folder."""
    torch.save(roformer("bs", dim=32, depth=2), standing_lan.shared / "theirs.ckpt")
    said = {
        "audio": {"chunk_size": 65_536, "hop_length": 1024, "n_fft": 2048, "sample_rate": 44_100},
        "model": {"dim": 32, "depth": 2, "stft_hop_length": 1024, "freqs_per_bands": BS_BANDS},
        "training": {"instruments": ["vocals", "other"], "target_instrument": "other"},
    }
    (standing_lan.shared / "theirs.yaml").write_text(yaml.safe_dump(said))
    return standing_lan


@pytest.fixture(scope="module")
def run(lan) -> Run:
    """Imported, submitted on both, and one worker killed in the middle; it has ended."""
    share_data(lan, StftSpec())
    theirs, mine = f"{SHARED}/theirs", f"{SHARED}/mine.safetensors"
    lan["attic"].vr("import", f"{theirs}.ckpt", "--config", f"{theirs}.yaml", "-o", mine)
    recipe = read_recipe("songs-roformer-lora", [*CHANGES, f"data={SHARED}/data", f"init={mine}"])
    submitted = submit(lan, lan["attic"], recipe)
    assert set(submitted.await_started("1.1")) == {"attic", "study"}
    pids = submitted.worker_pids("1.1")
    pace(lan, {"study": 0.5}, pids)
    await_true(lambda: len(step_folders(RunFolder(submitted.folder))) > 1, "checkpoints", PATIENCE_S)
    os.kill(pids["study"], signal.SIGKILL)
    assert set(submitted.await_started("1.2")) == {"attic", "study"}
    pace(lan, {"study": 0.5}, submitted.worker_pids("1.2"))
    await_true(lambda: submitted.state["state"] not in ("pending", "running"), "the end", PATIENCE_S)
    assert submitted.state["state"] == "finished", submitted.state
    lan.groups.cpu("study.slow", None)
    return submitted


def test_the_factors_are_those_of_one_undisturbed_process(run: Run, lan, tmp_path: Path) -> None:
    recipe = RunFolder(run.folder).recipe()
    shared = {"data": lan.shared / "data", "init": lan.shared / "mine.safetensors", "nodes": None}
    alone = new_run(tmp_path / "alone", recipe.model_copy(update=shared))
    here(alone)
    ours = last_weights(RunFolder(run.folder))
    assert all(name.endswith(("lora_a", "lora_b")) for name in ours)
    assert distance(ours, last_weights(alone)) < 1e-8
    begun, _ = load_weights(lan.shared / "mine.safetensors")
    merged, _ = load_merged(RunFolder(run.folder).pointer("last") / "weights.safetensors")
    assert distance(merged, begun) > 1e-4, "something was trained"


def test_both_had_a_part_and_only_factors_were_written(run: Run) -> None:
    assert any(min(line["shares"]) > 0 and len(line["shares"]) == 2 for line in run.lines("step"))
    for folder in step_folders(RunFolder(run.folder)):
        with safe_open(folder / "weights.safetensors", "pt") as file:
            assert all(name.endswith(("lora_a", "lora_b")) for name in file.keys())  # noqa: SIM118 - not a mapping


def test_the_merged_export_separates_as_the_run_does(run: Run, lan) -> None:
    head, runs = lan["attic"], f"{SHARED}/runs/{run.name}"
    told = head.vr_json("export", runs, "-o", f"{SHARED}/merged.safetensors")
    assert (told["merged"], told["step"]) == (True, STEPS)
    song = next(path for path in (lan.shared / "songs").rglob("*.wav"))
    heard = {}
    for name, weights in (
        ("run", runs),
        ("merged", f"{SHARED}/merged.safetensors"),
        ("begun", f"{SHARED}/mine.safetensors"),
    ):
        place = f"{SHARED}/separated-{name}"
        words = ("separate", f"{SHARED}/{song.relative_to(lan.shared)}", "-m", weights, "-o", place, "--device", "cpu")
        [row] = head.vr_json(*words)["songs"]
        heard[name] = soundfile.read(lan.shared / Path(row["instrumental"]).relative_to(SHARED))[0]
    np.testing.assert_allclose(heard["merged"], heard["run"], atol=1e-6)
    assert np.abs(heard["merged"] - heard["begun"]).max() > 1e-4
