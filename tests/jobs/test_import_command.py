"""`vr import`: from a checkpoint in the layout of others to separation, scores, training, and separation again."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from jobs.recipes.shipped import read_recipe
from jobs.runs.creation import create_run
from tests.command_line import vr, vr_apart
from tests.foreign_checkpoints import BS_BANDS, mel_band_bins, roformer
from tests.jobs.training import here
from vr_core.models.registry import build
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import CascadedNetSpec

HOP = 1024
SIX = ["bass", "drums", "other", "vocals", "guitar", "piano"]


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four invented songs of 4 s with their data set, at the usual STFT."""
    folder = tmp_path_factory.mktemp("import")
    vr("data", "synth", folder / "songs", "--songs", 4, "--seconds", 4)
    vr("data", "prepare", folder / "songs", "--out", folder / "data", "--split", "valid=0.25,test=0.25")
    return folder


def config(stems: list[str], target: str | None, **model: object) -> str:
    """The part of a trainer's YAML that is read."""
    return yaml.safe_dump({
        "audio": {"chunk_size": 65_536, "hop_length": HOP, "n_fft": 2048, "sample_rate": 44_100},
        "model": {"dim": 16, "depth": 1, "stft_hop_length": HOP, **model},
        "training": {"instruments": stems, "target_instrument": target},
    })  # fmt: skip


def tsurumeso() -> dict[str, torch.Tensor]:
    """Of ours, whose names and shapes `test_cascaded_net` compares with the published ones."""
    torch.manual_seed(0)
    spec = CascadedNetSpec(channels=4, lstm=8, norm="frozen_batch", auxiliary=True)
    return build(spec, 1024, HeadSpec()).state_dict()


FILES = {
    "tsurumeso": (tsurumeso, None),
    "bs": (lambda: roformer("bs"), config(["vocals", "other"], "vocals", freqs_per_bands=BS_BANDS)),
    "mel": (lambda: roformer("mel", stems=2, bands=mel_band_bins()), config(["vocals", "other"], None, num_bands=60)),
    "six": (lambda: roformer("bs", stems=6), config(SIX, None, num_stems=6)),
    "half": (lambda: {n: t.half() for n, t in roformer("bs").items()}, config(["other", "vocals"], "other")),
    "wrapped": (lambda: {"epoch": 3, "lr": np.float64(1e-4), "state": roformer("bs")}, config(["vocals"], None)),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_others_separates_is_scored_and_trains(kind: str, songs: Path, tmp_path: Path) -> None:
    make, said = FILES[kind]
    torch.save(make(), tmp_path / "theirs.ckpt")
    weights = tmp_path / "mine.safetensors"
    words = ["--out", weights]
    if said is not None:
        (tmp_path / "theirs.yaml").write_text(said)
        words += ["--config", tmp_path / "theirs.yaml"]
    told = vr("import", tmp_path / "theirs.ckpt", *words)
    assert f"weights {weights}\nrecipe  {tmp_path / 'mine.yaml'}\n" in told.stdout
    song = next((songs / "songs").rglob("*.wav"))

    def separated(checkpoint: Path, out: str) -> np.ndarray:
        done = vr("separate", song, "-m", checkpoint, "-o", tmp_path / out, "--device", "cpu", "--json").stdout
        [row] = json.loads(done)["songs"]
        return soundfile.read(row["vocals"])[0]

    before = separated(weights, "before")
    scores = json.loads(vr("eval", weights, songs / "data", "--device", "cpu", "--json").stdout)
    assert scores
    words = [
        f"data={songs / 'data'}", f"out={tmp_path / 'runs'}", "steps=3", "batch.items=2", "batch.crop_frames=20",
        "validation.items=2", "workers.device=cpu", "optim.lr=1e-2", "optim.warmup_steps=0", "optim.ema_decay=0",
    ]  # fmt: skip
    if kind == "six":  # with all that the command does; the others without Ray, which takes a while to start
        vr_apart("train", tmp_path / "mine.yaml", *words)
    else:
        here(create_run(read_recipe(str(tmp_path / "mine.yaml"), words)))
    [run] = (tmp_path / "runs").iterdir()
    after = separated(run, "after")
    assert after.shape == before.shape
    assert 1e-5 < np.abs(after - before).mean() < 1


def test_what_is_there_is_replaced_only_when_that_is_said(tmp_path: Path) -> None:
    torch.save(roformer("bs"), tmp_path / "theirs.ckpt")
    (tmp_path / "mine.safetensors").write_bytes(b"precious")
    words = ("import", tmp_path / "theirs.ckpt", "--stems", "vocals", "-o", tmp_path / "mine")
    assert "mine.safetensors: is there already; give another --out, or --replace" in vr(*words, code=2).stderr
    assert (tmp_path / "mine.safetensors").read_bytes() == b"precious"
    told = json.loads(vr(*words, "--replace", "--licence", "CC BY 4.0", "--json").stdout)
    assert (told["stems"], told["hop"], told["licence"]) == (["vocals"], 441, "CC BY 4.0")
    assert told["assumed"] == ["a hop of 441 samples is assumed, as of nearly all such files; --hop gives another"]


def test_nothing_is_written_over_what_is_imported(tmp_path: Path) -> None:
    torch.save(roformer("bs"), tmp_path / "roformer.ckpt")
    (tmp_path / "roformer.yaml").write_text(said := config(["vocals"], None))
    words = ("import", tmp_path / "roformer.ckpt", "--config", tmp_path / "roformer.yaml", "--replace", "-o")
    told = vr(*words, tmp_path / "roformer", code=2).stderr
    assert "roformer.yaml: would be written over what is imported; give another --out" in told
    assert (tmp_path / "roformer.yaml").read_text() == said
    (tmp_path / "mine.yaml").mkdir()
    assert "mine.yaml: is there already; give another --out\n" in vr(*words, tmp_path / "mine", code=2).stderr
    assert not (tmp_path / "mine.safetensors").exists()


def test_a_model_without_vocals_gets_no_recipe(tmp_path: Path) -> None:
    torch.save(roformer("bs"), tmp_path / "theirs.ckpt")
    said = vr("import", tmp_path / "theirs.ckpt", "--stems", "drums", "-o", tmp_path / "mine")
    assert "no recipe was written" in said.stderr
    assert not (tmp_path / "mine.yaml").exists()


def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"PK\3\4 half a file")
    said = vr("import", tmp_path / "x.ckpt", "-o", tmp_path / "mine", code=2).stderr
    assert said.count("\n") == 1
    assert "damaged, cut short or no checkpoint" in said
