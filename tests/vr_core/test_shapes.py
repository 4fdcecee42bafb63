"""Every entry of the registries is run with its shapes checked (`--jaxtyping-packages` in pyproject.toml).

A new model or objective needs no line here.
"""

import importlib
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from tests.masking import mask_of
from vr_core.audio.sound import Sound
from vr_core.audio.spectrogram import istft, stft
from vr_core.draws import Draws
from vr_core.models.registry import MODELS, build
from vr_core.objectives.objective import item_losses
from vr_core.objectives.registry import OBJECTIVES, objective_of
from vr_core.specs.models import BsRoformerSpec, FrameUNetSpec, MelRoformerSpec, ModelSpec, SeedFrameTransformerSpec
from vr_core.specs.objectives import ObjectiveSpec
from vr_core.specs.stft import StftSpec

BINS = 9
SIZES = [(1, 1), (1, 6), (2, 1), (3, 13)]  # items, frames


def default_specs(union: object) -> dict[str, typing.Any]:
    """Tag → spec with its defaults, of a union of specs."""
    specs = [kind() for kind in typing.get_args(typing.get_args(union)[0])]
    return {spec.name: spec for spec in specs}


MODEL_SPECS, OBJECTIVE_SPECS = default_specs(ModelSpec), default_specs(ObjectiveSpec)
TINY = {"width": 8, "blocks": 1, "heads": 2, "head_width": 4}  # the defaults have 75 million parameters and more
MODEL_SPECS |= {
    "bs_roformer": BsRoformerSpec(**TINY), "mel_roformer": MelRoformerSpec(mel_bands=2, **TINY),
    "seed_frame_transformer": SeedFrameTransformerSpec(heads=3, crop_frames=13),  # as wide as the bins
    "frame_unet": FrameUNetSpec(levels=2, heads=3, expansion=4),  # 9 bins are padded to 12
}  # fmt: skip


STFT = StftSpec(n_fft=64, hop=32)


def magnitudes(items: int, frames: int) -> Tensor:
    return torch.rand(items, 2, BINS, frames)


def heard_by_a(model: str, items: int, frames: int) -> Tensor:
    """What such a model is given: magnitudes or a spectrogram."""
    magnitude = magnitudes(items, frames)
    return magnitude.to(torch.complex64) if MODEL_SPECS[model].front.phase else magnitude


@pytest.mark.parametrize(("items", "frames"), SIZES)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_answers_every_objective_in_the_shapes_that_are_written(
    model: str, objective: str, items: int, frames: int
) -> None:
    net, mixture = build(MODEL_SPECS[model], BINS, OBJECTIVE_SPECS[objective].head), heard_by_a(model, items, frames)
    assert mask_of(net, mixture).shape == mixture.shape
    judging, draws = objective_of(OBJECTIVE_SPECS[objective]), Draws.of_items(0, range(items))
    phased = mixture if mixture.is_complex() else None
    sounds = {stem: Sound(STFT, mixture.abs(), phased) for stem in ("mixture", "instrumental")}
    if objective == "masked_frames" and phased is not None:
        return  # no recipe has both: mixtures are stored without phase
    losses = item_losses(judging, net, sounds, draws, training=True, front=net.front)
    assert {term.shape for term in losses.values()} == {(items,)}


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "bins and frames exchanged": lambda x: x.transpose(2, 3),
    "no channel axis": lambda x: x[:, 0],
    "a spectrogram for magnitudes, or the reverse": lambda x: x.abs() if x.is_complex() else x.to(torch.complex64),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("model", MODELS)
def test_no_model_takes_a_wrong_shape(model: str, wrong: str) -> None:
    net = build(MODEL_SPECS[model], BINS)
    owner = type(net).forward.__qualname__.partition(".")[0]
    with pytest.raises(TypeCheckError, match=rf"parameters of .*{owner}\."):
        net(WRONG[wrong](heard_by_a(model, 2, 13)))


@pytest.mark.parametrize("wrong", WRONG)
def test_magnitudes_and_spectrum_of_a_sound_have_one_shape(wrong: str) -> None:
    with pytest.raises(TypeCheckError, match="magnitude"):
        Sound(STFT, WRONG[wrong](magnitudes(2, 13)), magnitudes(2, 13).to(torch.complex64))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_objective_takes_a_mask_without_channels(objective: str) -> None:
    """Two items of two channels: times their magnitudes it would have the right shape, and wrong values."""
    judging, mixture = objective_of(OBJECTIVE_SPECS[objective]), magnitudes(2, 13)
    sound = Sound(STFT, mixture)
    posed = judging.pose({"mixture": sound, "instrumental": sound}, Draws.of_items(0, range(2)))
    with pytest.raises(TypeCheckError, match="mask"):
        judging.judge({"mask": torch.rand(2, BINS, 13)}, posed)


def test_a_spectrogram_has_the_bins_of_its_settings() -> None:
    spec = StftSpec(n_fft=64, hop=16)
    bins, nyquist = stft(torch.rand(2, 500), spec)
    with pytest.raises(TypeCheckError, match="spectrogram"):
        istft(bins[:, :-1], 500, spec, nyquist)
    with pytest.raises(TypeCheckError, match="nyquist"):
        istft(bins, 500, spec, nyquist[:, 1:])


def annotations(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Where each annotation of a public function, method or field of the module stands, and what it says."""
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    classes = [value for value in own if inspect.isclass(value)]
    members = [getattr(value, "fget", None) or inspect.unwrap(getattr(value, "__func__", value))
               for kind in classes for value in vars(kind).values()]  # fmt: skip
    methods = [value for value in members if inspect.isfunction(value)]
    for value in [*filter(inspect.isfunction, own), *classes, *methods]:
        if not value.__name__.startswith("_"):
            for name, hint in inspect.get_annotations(value).items():
                yield f"{module.__name__}.{value.__qualname__}: {name}", hint


def says_no_shape(hint: object) -> bool:
    parts = hint if isinstance(hint, list) else typing.get_args(hint)
    return hint is Tensor or hint == "Tensor" or any(map(says_no_shape, parts))


class Planted:
    """Annotations that say no shape, wherever one may stand."""

    field: dict[str, Tensor]

    @property
    def given(self) -> Tensor: ...

    @classmethod
    def made(cls, of: Callable[[Tensor], int]) -> "Tensor": ...


def test_a_tensor_without_a_shape_is_found_wherever_it_stands() -> None:
    module = ModuleType(Planted.__module__)
    module.Planted = Planted
    found = [where.rpartition(".")[2] for where, hint in annotations(module) if says_no_shape(hint)]
    assert sorted(found) == ["Planted: field", "given: return", "made: of", "made: return"]


def test_every_public_tensor_has_a_shape(pytestconfig: pytest.Config) -> None:
    *checked, _ = pytestconfig.getoption("jaxtyping_packages").split(",")
    packages = [importlib.import_module(name) for name in checked]
    inside = [f"{p.__name__}.{m.name}" for p in packages for m in pkgutil.iter_modules(getattr(p, "__path__", []))]
    modules = [*packages, *map(importlib.import_module, inside)]
    found = dict(pair for module in modules for pair in annotations(module))
    assert "vr_core.objectives.objective.Posed: counted" in found
    assert [where for where, hint in found.items() if says_no_shape(hint)] == []
