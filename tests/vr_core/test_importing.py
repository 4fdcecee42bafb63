"""Checkpoints of others: recognised by shapes, read without running anything, refused by name."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.foreign_checkpoints import BS_BANDS, mel_band_bins, roformer
from vr_core.errors import ConfigError, WeightsError
from vr_core.importing.convert import convert
from vr_core.importing.recognise import recognise
from vr_core.importing.said import Said, read_said, stem_names
from vr_core.loading import load_model
from vr_core.specs.models import BsRoformerSpec, MelRoformerSpec
from vr_core.weights import read_meta

PLENTY = 1 << 40
YAML = """
audio:
  chunk_size: 131584
  hop_length: 512
  n_fft: 2048
  sample_rate: 44100
model:
  dim: 16
  depth: 1
  heads: 2
  num_stems: 1
  mask_estimator_depth: 2
  stft_hop_length: 512
  freqs_per_bands: !!python/tuple
    - 2
    - 2
training:
  instruments: [vocals, other]
  target_instrument: vocals
  lr: 1.0e-05
"""


def shapes_of(state):
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def into(folder: Path, state):
    torch.save(state, folder / "theirs.ckpt")
    out = folder / "ours.safetensors"
    said = Said(stems=("vocals",), hop=512)
    return convert(folder / "theirs.ckpt", said, out, licence="MIT", available_bytes=PLENTY, progress=lambda _: None)


@pytest.mark.parametrize("stems", [1, 6])
def test_a_bs_roformer_of_any_size_is_what_its_shapes_say(stems: int) -> None:
    state = roformer("bs", dim=24, depth=3, heads=4, stems=stems)
    names = tuple("abcdef"[:stems])
    found = recognise(shapes_of(state), Said(stems=names, hop=512, chunk_samples=352_800), "x")
    assert found.model == BsRoformerSpec(width=24, blocks=3, heads=4, stft=found.stft)
    assert (found.stft.n_fft, found.stft.hop, found.crop_frames) == (2048, 512, 352_800 // 512 + 1)
    assert (found.head.kind, found.head.stems, found.notes) == ("complex_mask", names, ())


def test_bands_of_its_own_are_kept() -> None:
    own = [5] * 25
    found = recognise(shapes_of(roformer("bs", bands=own)), Said(stems=("vocals",), hop=64), "x")
    assert found.model.bands == tuple(own)
    assert found.stft.n_fft == 2 * (sum(own) - 1)


def test_a_mel_roformer_is_what_its_shapes_say() -> None:
    state = roformer("mel", dim=24, depth=2, stems=2, bands=mel_band_bins())
    found = recognise(shapes_of(state), Said(stems=("vocals", "instrumental")), "x")
    assert found.model == MelRoformerSpec(width=24, blocks=2, heads=2, stft=found.stft)
    assert found.stft.hop == 441
    assert "hop of 441" in found.notes[0]


def test_every_tensor_comes_over_as_it_was(tmp_path: Path) -> None:
    state = roformer("bs")
    meta = into(tmp_path, {"epoch": 3, "best": np.float64(1.5), "state_dict": state}).meta
    model, read = load_model(tmp_path / "ours.safetensors")
    assert read == meta
    assert (read.purpose, read.step, read.imported.file, read.imported.licence) == (
        "separation",
        0,
        "theirs.ckpt",
        "MIT",
    )
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], state[name]) for name in state)


@pytest.mark.parametrize("wrap", [
    lambda state: state, lambda state: {"state": state}, lambda state: {"model_state_dict": state, "step": 1},
    lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}},
    lambda state: {f"model.{name}": t for name, t in state.items()},
    lambda state: {f"_orig_mod.module.{name}": t for name, t in state.items()},
])  # fmt: skip
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, wrap) -> None:
    into(tmp_path, wrap(roformer("bs")))
    assert read_meta(tmp_path / "ours.safetensors").model.name == "bs_roformer"


def test_half_precision_stays_half_in_the_file_and_is_float32_in_the_model(tmp_path: Path) -> None:
    state = {name: tensor.half() for name, tensor in roformer("bs").items()}
    into(tmp_path, state)
    with safetensors.safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert file.get_tensor("final_norm.gamma").dtype == torch.float16
    model, _ = load_model(tmp_path / "ours.safetensors")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.state_dict()["final_norm.gamma"], state["final_norm.gamma"].float())


def test_a_yaml_of_theirs_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(YAML)
    said = read_said(tmp_path / "c.yaml")
    assert (said.hop, said.n_fft, said.chunk_samples, said.stems) == (512, 2048, 131_584, ("vocals",))
    assert said.model["freqs_per_bands"] == [2, 2]
    over = Said(stems=("instrumental",), hop=441).over(said)
    assert (over.stems, over.hop, over.n_fft, over.model) == (("instrumental",), 441, 2048, said.model)


@pytest.mark.parametrize(("theirs", "ours"), [
    (["vocals", "other"], ("vocals", "instrumental")), (["Vocals", "Instrumental"], ("vocals", "instrumental")),
    (["drums", "bass", "other", "vocals"], ("drums", "bass", "other", "vocals")), (["other"], ("other",)),
    (["No Vocals"], ("instrumental",)), (["Lead Vocals", "Back"], ("lead_vocals", "back")),
])  # fmt: skip
def test_names_of_stems(theirs: list[str], ours: tuple[str, ...]) -> None:
    assert stem_names(theirs) == ours


@pytest.mark.parametrize(("change", "words"), [
    (("dim: 16", "dim: 384"), "dim 384, the tensors have 16"),
    (("num_stems: 1", "num_stems: 2"), "num_stems 2, the tensors have 1"),
    (("depth: 1\n  heads", "depth: 12\n  heads"), "depth 12, the tensors have 1"),
    (("target_instrument: vocals", "target_instrument: null"), "said to have 2 stems .*, the tensors have 1"),
    (("n_fft: 2048", "n_fft: 4096"), "an STFT of 4096, the tensors have bands of one of 2048"),
    (("target_instrument: vocals", "target_instrument: drums"), "'drums' is none of vocals, other"),
    (("stft_hop_length: 512", "stft_hop_length: fast"), "hop_length: expected a count, found 'fast'"),
    (("heads: 2", "heads: !!python/object/apply:os.system ['touch x']"), "could not determine a constructor"),
    (("instruments: [vocals, other]", "instruments: vocals"), "expected a list of names"),
])  # fmt: skip
def test_a_yaml_that_contradicts_the_tensors_or_is_none(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    whole = YAML.replace("    - 2\n    - 2", "\n".join(f"    - {n}" for n in BS_BANDS))
    assert change[0] in whole
    (tmp_path / "c.yaml").write_text(whole.replace(*change))
    state = roformer("bs")
    with pytest.raises(ConfigError, match=words):
        recognise(shapes_of(state), read_said(tmp_path / "c.yaml"), "x")
    (tmp_path / "c.yaml").write_text(whole)
    recognise(shapes_of(state), read_said(tmp_path / "c.yaml"), "x")


def test_bands_of_another_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(YAML)
    with pytest.raises(ConfigError, match=r"freqs_per_bands \[2, 2\], the tensors have"):
        recognise(shapes_of(roformer("bs")), read_said(tmp_path / "c.yaml"), "x")


def test_stems_that_nobody_names_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="has 1 stem and does not say which; give its YAML .* --stems vocals$"):
        recognise(shapes_of(roformer("bs")), Said(), "x")


@pytest.mark.parametrize(("name", "words"), [
    ("mask_estimators.0.segm.blocks.0.weight", "HyperACE"),
    ("layers.0.0.layers.0.0.to_value_residual_mix.weight", "value residuals"),
    ("layers.0.0.layers.0.mixer.A_log", "Mamba"), ("tencoder.0.conv.weight", "HTDemucs"),
    ("encoder_blocks.0.tfc_tdf.weight", "MDX23C"), ("stg1_low_band_net.enc1.conv1.conv.0.weight", "before v5"),
])  # fmt: skip
def test_variants_that_vr_does_not_build_are_named(name: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        recognise(shapes_of(roformer("bs")) | {name: (3,)}, Said(stems=("vocals",)), "x")


@pytest.mark.parametrize("name", ["lora_A", "lora_A.default.weight", "lora_magnitude_vector"])
def test_factors_that_are_not_merged_are_told(name: str) -> None:
    theirs = shapes_of(roformer("bs")) | {f"layers.0.0.layers.0.0.to_qkv.{name}": (8, 16)}
    with pytest.raises(WeightsError, match=r"^x: holds low-rank factors \(LoRA\).*; merge them with the program"):
        recognise(theirs, Said(stems=("vocals",)), "x")


@pytest.mark.parametrize(("name", "words"), [
    ("layers.0.2.layers.0.0.norm.gamma", "linear attention"),
    ("layers.0.0.layers.1.0.norm.gamma", "several transformers"),
])  # fmt: skip
def test_settings_that_vr_does_not_build_are_named(name: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        recognise(shapes_of(roformer("bs")) | {name: (16,)}, Said(stems=("vocals",)), "x")


@pytest.mark.parametrize(("key", "value", "words"), [
    ("skip_connection", True, "sums of earlier blocks"), ("stft_win_length", 1024, "windows of 1024 samples"),
    ("stft_normalized", True, "normalised"),
])  # fmt: skip
def test_keys_that_change_what_is_computed_and_no_tensor_are_refused(key: str, value: object, words: str) -> None:
    usual = {"skip_connection": False, "stft_win_length": 2048, "stft_normalized": False}
    for kind, bands in (("bs", BS_BANDS), ("mel", mel_band_bins())):
        shapes = shapes_of(roformer(kind, bands=bands))
        recognise(shapes, Said(stems=("vocals",), model=usual), "x")
        with pytest.raises(WeightsError, match=f"^x: of .*{words}.*, which vr does not build"):
            recognise(shapes, Said(stems=("vocals",), model=usual | {key: value}), "x")


@pytest.mark.parametrize(("name", "shape"), [
    ("layers.0.0.layers.0.0.to_gates.weight", None), ("layers.0.0.layers.0.0.to_qkv.weight", ()),
    ("layers.0.0.layers.0.0.to_gates.weight", (0, 16)), ("band_split.to_features.3.0.gamma", None),
    ("layers.0.0.layers.0.0.to_qkv.weight", (3 * 2 * 63, 16)),
])  # fmt: skip
def test_a_file_that_is_half_a_known_one_is_one_line(name: str, shape: tuple[int, ...] | None) -> None:
    shapes = shapes_of(roformer("bs"))
    del shapes[name]
    shapes |= {} if shape is None else {name: shape}
    with pytest.raises(WeightsError, match="^x: begins like a bs_roformer, and has other tensors"):
        recognise(shapes, Said(stems=("vocals",)), "x")


@pytest.mark.parametrize(("said", "words"), [
    ({"hop": 4096}, "n_fft must be even and at least 2 × hop"), ({"n_fft": 4096}, "the tensors have bands of one of"),
    ({"chunk_samples": 100}, "a chunk of 100 samples is shorter than a window of 2048"),
])  # fmt: skip
def test_numbers_that_no_model_has_are_refused(said: dict[str, int], words: str) -> None:
    for shapes in (shapes_of(roformer("bs")), cascaded(1024)):
        with pytest.raises(ConfigError, match=words):
            recognise(shapes, Said(stems=("vocals",), **said), "x")


def cascaded(bins: int) -> dict[str, tuple[int, ...]]:
    """What is looked at of a file of vocal-remover's network, of so many bins."""
    return {
        "stg1_low_band_net.0.enc1.conv.0.weight": (16, 2, 3, 3), "out.weight": (2, 32, 1, 1),
        "stg3_full_band_net.lstm_dec2.lstm.weight_ih_l0": (256, bins // 2),
    }  # fmt: skip


def test_windows_of_vocal_remover_are_those_of_its_training() -> None:
    found = recognise(cascaded(1024), Said(), "x")
    assert (found.crop_frames, found.stft.n_fft, found.head.stems) == (256, 2048, ("instrumental",))
    assert "a hop of 1024" in found.notes[0]
    assert recognise(cascaded(1024), Said(hop=1024), "x").notes == ()


def test_bins_of_uvrs_models_of_several_stfts_are_refused() -> None:
    with pytest.raises(WeightsError, match="^x: of 672 bins, as UVR's models"):
        recognise(cascaded(672), Said(), "x")
    assert recognise(cascaded(672), Said(n_fft=1344, hop=480), "x").stft.n_fft == 1344


@pytest.mark.parametrize("name", ["mixture", "all", "v" * 41])
def test_names_that_no_stem_has(name: str) -> None:
    with pytest.raises(ConfigError, match="up to 40 letters, and none of mixture, all; give another name"):
        stem_names(["vocals", name])


def test_numbers_that_vr_does_not_compute_in_are_refused(tmp_path: Path) -> None:
    state = roformer("bs")
    state["final_norm.gamma"] = state["final_norm.gamma"].to(torch.float8_e4m3fn)
    with pytest.raises(WeightsError, match=r"final_norm\.gamma holds float8_e4m3fn"):
        into(tmp_path, state)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"does not know \(1 tensors: conv\.weight"):
        recognise({"conv.weight": (3, 3)}, Said(), "x")


def test_a_tensor_of_another_size_is_refused(tmp_path: Path) -> None:
    state = roformer("bs") | {"final_norm.gamma": torch.ones(17)}
    with pytest.raises(WeightsError, match=r"final_norm\.gamma is \[17\], the model has \[16\]"):
        into(tmp_path, state)
    assert not (tmp_path / "ours.safetensors").exists()


def test_values_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    state = roformer("bs")
    state["final_norm.gamma"][3] = float("nan")
    with pytest.raises(WeightsError, match=r"final_norm\.gamma holds values that are not finite"):
        into(tmp_path, state)
