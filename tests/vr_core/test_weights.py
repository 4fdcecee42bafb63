import errno
import json
import os
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from vr_core.errors import StorageError, WeightsError
from vr_core.loading import load_model, load_state
from vr_core.models.registry import build
from vr_core.specs.models import PlainStackSpec
from vr_core.specs.stft import StftSpec
from vr_core.weights import WeightsMeta, load_weights, read_meta, save_weights

META = WeightsMeta(model=PlainStackSpec(width=4, blocks=1), stft=StftSpec(n_fft=128, hop=64), step=7, run="tiny-1")


def example_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(3, 5, generator=generator),
        "a.half": torch.randn(4, generator=generator).to(torch.bfloat16),
        "count": torch.tensor(3),
        "empty": torch.zeros(0, 2),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_weights(tmp_path / "weights.safetensors", example_state(), META)
    return tmp_path / "weights.safetensors"


def rewrite_header(path: Path, change: dict[str, object]) -> None:
    """Rewrite the `vr` entry of a weights file with other values, the tensors as they are."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["vr"] = json.dumps({**json.loads(header["__metadata__"]["vr"]), **change})
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def test_round_trip_keeps_every_value_type_and_the_description(path: Path) -> None:
    state, meta = load_weights(path)
    assert meta == META
    assert type(meta) is WeightsMeta
    assert state.keys() == example_state().keys()
    for name, tensor in example_state().items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor)
    assert [file.name for file in path.parent.iterdir()] == ["weights.safetensors"]


def test_equal_weights_give_equal_bytes(path: Path) -> None:
    other = path.with_name("other.safetensors")
    save_weights(other, dict(reversed(example_state().items())), META)
    assert other.read_bytes() == path.read_bytes()


def test_views_and_tied_tensors_are_stored_by_value(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    save_weights(tmp_path / "w", {"a": whole, "tied": whole, "view": whole.T}, META)
    state, _ = load_weights(tmp_path / "w")
    assert torch.equal(state["tied"], whole)
    assert torch.equal(state["view"], whole.T)


def test_a_write_without_space_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def no_space(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # NFS and thin disks tell of a full disk only here, and no file system of this machine does.
    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(StorageError, match="No space left on device"):
        save_weights(path, {"other": torch.zeros(2)}, META)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 1


@pytest.mark.parametrize("kept", [0, 5, 8, 9, 200, -1])
def test_a_file_cut_short_is_refused(path: Path, kept: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:kept])
    with pytest.raises(WeightsError, match=r"weights.safetensors: damaged or cut short"):
        load_weights(path)


def test_a_flipped_bit_in_a_tensor_is_noticed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="checksum"):
        load_weights(path)


def test_files_of_other_programs_are_refused_by_what_they_are(tmp_path: Path) -> None:
    torch.save(example_state(), tmp_path / "model.pt")
    torch.save(example_state(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    (tmp_path / "song.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVE")
    for name, reason in [
        ("model.pt", "pickled"), ("old.pt", "pickled"), ("foreign.safetensors", "another program"),
        ("song.wav", "not a safetensors file"), ("absent", "no such file"), (".", "a folder"),
    ]:  # fmt: skip
        with pytest.raises(WeightsError, match=reason) as caught:
            load_weights(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_another_format_version_is_named(path: Path) -> None:
    rewrite_header(path, {"format": 2})
    with pytest.raises(WeightsError, match="format 2, this version of vr reads 1"):
        load_weights(path)


def test_a_header_with_an_unknown_key_or_model_is_refused(path: Path) -> None:
    rewrite_header(path, {"steps": 3})
    with pytest.raises(WeightsError, match="did you mean step"):
        load_weights(path)


def test_state_that_does_not_fit_changes_nothing() -> None:
    model = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    good = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    for state, reason in [
        ({**good, "weight": torch.ones(3, 2)}, r"weight is \[3, 2\], the model has \[2, 3\]"),
        ({"weight": good["weight"]}, "bias is missing"),
        ({**good, "extra": torch.ones(1)}, "extra is unknown"),
        ({**good, "bias": torch.tensor([1.0, float("nan")])}, "bias holds values that are not finite"),
    ]:
        with pytest.raises(WeightsError, match=reason):
            load_state(model, state, "w")
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    load_state(model, good, "w")
    assert torch.equal(model.weight, torch.ones(2, 3))


def test_a_header_length_that_begins_like_a_pickle_is_still_safetensors(tmp_path: Path) -> None:
    lengths = set()
    for size in range(400):
        save_weights(tmp_path / "w", {"a": torch.ones(1)}, META.model_copy(update={"run": "x" * size}))
        lengths.add((tmp_path / "w").read_bytes()[:2])
        if b"\x80\x02" in lengths:
            break
    assert b"\x80\x02" in lengths
    load_weights(tmp_path / "w")


def test_a_saved_model_loads_and_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(META.model, META.stft.bins).eval()
    save_weights(tmp_path / "w", model.state_dict(), META)
    loaded, meta = load_model(tmp_path / "w")
    magnitude = torch.rand(1, 2, META.stft.bins, 9)
    assert not loaded.training
    assert meta == META
    with torch.inference_mode():
        assert torch.equal(loaded(magnitude)["mask"], model(magnitude)["mask"])


def test_a_header_that_promises_more_than_memory_holds_is_refused_before_anything_is_built(tmp_path):
    state = build(META.model, META.stft.bins).state_dict()
    wide = META.model_copy(update={"model": PlainStackSpec(width=200_000, blocks=1)})
    save_weights(tmp_path / "wide.safetensors", state, wide)
    with pytest.raises(WeightsError, match="does not fit the model"):
        load_model(tmp_path / "wide.safetensors")


def test_a_pipe_in_the_place_of_weights_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "weights.safetensors")
    with pytest.raises(WeightsError, match="is a pipe or a device"):
        load_weights(tmp_path / "weights.safetensors")


def test_a_file_of_an_earlier_version_which_says_less_is_read(tmp_path):
    save_weights(tmp_path / "w", example_state(), META)
    content = (tmp_path / "w").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    said = json.loads(header["__metadata__"]["vr"])
    for key in ("purpose", "data", "parents", "trained_on"):
        del said[key]
    header["__metadata__"]["vr"] = json.dumps(said)
    old = json.dumps(header).encode()
    (tmp_path / "old").write_bytes(len(old).to_bytes(8, "little") + old + content[8 + size :])
    state, meta = load_weights(tmp_path / "old")
    assert meta == META == read_meta(tmp_path / "old")
    assert (meta.purpose, meta.trained_on) == (None, ())
    assert {name: tensor.tolist() for name, tensor in state.items()} == {
        name: tensor.tolist() for name, tensor in example_state().items()
    }
