"""A small BS-RoFormer through the whole loop: cut over ranks, killed, resumed, used for separation and from a start."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dataprep.audio.tracks import Track, find_tracks
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.shards.splits import parse_split
from jobs.runs.creation import require_data_set
from tests.command_line import vr
from tests.jobs.training import (
    ROFORMER,
    distance,
    finish,
    here,
    kill_after_checkpoint,
    last_weights,
    new_run,
    recipe_of,
)
from tests.jobs.training import start as start_ranks
from vr_core.audio.separate import WindowSpec, separate
from vr_core.errors import ConfigError, WeightsError
from vr_core.loading import load_model
from vr_core.specs.stft import StftSpec


def test_two_ranks_killed_and_resumed_by_one_end_where_one_ends(tiny_data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tiny_data, **ROFORMER)
    undisturbed = new_run(tmp_path / "undisturbed", recipe)
    here(undisturbed)
    run = new_run(tmp_path / "run", recipe)
    kill_after_checkpoint(run, start_ranks(run, 2, tmp_path / "meeting"), 3)
    here(run)
    assert distance(last_weights(run), last_weights(undisturbed)) < 1e-9


def test_its_weights_separate_songs_at_their_own_stft(tiny_data: Path, tmp_path: Path, capsys) -> None:
    run = new_run(tmp_path / "run", recipe_of(tiny_data, **ROFORMER))
    finish(start_ranks(run, 1, tmp_path / "meeting"))
    model, meta = load_model(run.pointer("last") / "weights.safetensors")
    assert (meta.stft.hop, meta.head.kind, meta.head.stems) == (16, "complex_mask", ("vocals", "instrumental"))
    song = np.random.default_rng(0).standard_normal((2, 9000)).astype(np.float32) * 0.1
    windows = WindowSpec(frames=meta.crop_frames, overlap_frames=meta.crop_frames // 2)
    pieces = list(separate(model, meta.stft, [song], windows))
    instrumental, vocals = (
        np.concatenate([piece[stem] for piece in pieces], axis=1) for stem in ("instrumental", "vocals")
    )
    np.testing.assert_allclose(instrumental + vocals, song, atol=1e-6)
    assert np.abs(vocals).mean() > 0
    # Another head is another shape, and is said so.
    other = recipe_of(tiny_data, **ROFORMER | {"objective": {"name": "separate", "mask": "real"},
                                               "init": str(run.pointer("last") / "weights.safetensors")})  # fmt: skip
    with pytest.raises(WeightsError, match=r"mask_estimators\.1\.to_freqs"):
        here(new_run(tmp_path / "other", other))
    # Its body and the head of the one stem that both have are taken.
    body = recipe_of(tiny_data, **ROFORMER | {
        "objective": ROFORMER["objective"] | {"stems": ["instrumental"]}, "init_part": "body", "init": other.init,
        "steps": 1, "optim.freeze": ["band_split.*", "layers.*", "final_norm.*", "mask_estimators.*.bias"],
    })  # fmt: skip
    begun = new_run(tmp_path / "begun", body)
    capsys.readouterr()
    here(begun)
    assert "its head of vocals (mask_estimators.0.*) is not taken" in capsys.readouterr().err
    before, after = last_weights(run), last_weights(begun)
    # A start takes the averaged weights, which are those without `raw.`.
    averaged = [name for name in after if not name.startswith("raw.")]
    frozen = [name for name in averaged if not name.startswith("mask_estimators.") or name.endswith(".bias")]
    assert any(name.startswith("mask_estimators.0.") for name in frozen)
    for name in frozen:  # a start is taken in float32
        of = name.replace("mask_estimators.0.", "mask_estimators.1.")
        torch.testing.assert_close(after[name], before[of], rtol=1e-6, atol=1e-7)


def test_it_is_pretrained_on_mixtures_that_are_stored_with_phase_and_on_no_others(
    tiny_data: Path, tmp_path: Path
) -> None:
    songs = [
        Track(t.id, {"mixture": t.stems["instrumental"]}) for t in find_tracks([tiny_data.parent / "songs"]).tracks
    ]
    for codec in ("magnitude8", "polar8"):
        settings = PrepareSettings(stft=StftSpec(n_fft=64, hop=32), workers=1, mixture_codec=codec)
        prepare(songs, tmp_path / codec, settings, split=parse_split("valid=0.2"))
    pretraining = ROFORMER | {
        "objective": {"name": "masked_frames", "token_frames": 2},
        "steps": 6,
        "out": tmp_path / "r",
    }
    refused = recipe_of(tmp_path / "magnitude8", **pretraining)
    with pytest.raises(ConfigError, match="stores the mixture without phase"):
        require_data_set(refused)
    with pytest.raises(ConfigError, match="stores the mixture without phase"):
        here(new_run(tmp_path / "refused", refused))
    recipe = recipe_of(tmp_path / "polar8", **pretraining)
    require_data_set(recipe)
    run = new_run(tmp_path / "run", recipe)
    here(run)
    assert all(bool(tensor.isfinite().all()) for tensor in last_weights(run).values())
    told = vr(
        "train", "songs-pretrain", f"data={tmp_path / 'magnitude8'}", "model={name: bs_roformer}",
        f"out={tmp_path / 'runs'}", code=2,
    )  # fmt: skip
    assert "--mixture-codec polar8" in told.stderr
    assert not (tmp_path / "runs").exists()
