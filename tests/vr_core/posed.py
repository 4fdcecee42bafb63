"""What objectives are given in tests: sounds of noise, a model that answers with one number, specs of all kinds."""

import torch

from tests.masking import Masking
from vr_core.audio.sound import Sound
from vr_core.specs.objectives import ObjectiveSpec, SeparateSpec
from vr_core.specs.stft import StftSpec

STFT = StftSpec(n_fft=64, hop=32)

SEPARATIONS = [
    SeparateSpec(mask=mask, loss=loss, stems=stems)
    for mask in ("real", "complex")
    for loss in ("magnitude", "spectrum", "waveform")
    for stems in (("instrumental",), ("vocals", "instrumental"))
]
WEIGHTED = [
    SeparateSpec(mask=mask, losses={loss: 1.0})
    for mask in ("real", "complex")
    for loss in ("magnitude_mse", "multi_stft", "mel", "log_snr")
]
WEIGHTED += [
    SeparateSpec(
        mask=mask, losses={"waveform": 1.0, "multi_stft": 0.25, "log_snr": 3.0}, stems=("vocals", "instrumental")
    )
    for mask in ("real", "complex")
]


class Identity(Masking):
    """A model whose mask is one value everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def mask(self, magnitude: torch.Tensor) -> torch.Tensor:
        return torch.full_like(magnitude, self.value)


def told(spec: ObjectiveSpec) -> str:
    keys = ("mask", "loss", "stems", "losses")
    return "-".join(str(x) for x in (spec.name, *(getattr(spec, key, "") for key in keys)))


def phased(items: int, frames: int, seed: int) -> Sound:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(2, items, 2, STFT.bins, frames, dtype=torch.float64, generator=generator) * 0.1
    spectrum = torch.complex(parts[0], parts[1])
    return Sound(STFT, spectrum.abs(), spectrum)


def example(items: int, frames: int = 10) -> dict[str, Sound]:
    stems = {stem: phased(items, frames, seed) for seed, stem in enumerate(("vocals", "instrumental"))}
    both = stems["vocals"].phased() + stems["instrumental"].phased()
    return stems | {"mixture": Sound(STFT, both.abs(), both)}
