"""What is read from the shapes of a checkpoint that is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vr_core.config import validate
from vr_core.errors import ConfigError
from vr_core.importing.said import Said
from vr_core.specs.heads import Kind
from vr_core.specs.models import ModelSpec
from vr_core.specs.stft import StftSpec

Shapes = Mapping[str, tuple[int, ...]]


class NotBuilt(Exception):
    """Says what of a checkpoint vr has no code for, as the end of "FILE: of …"."""


@dataclass(frozen=True)
class Layout:
    """Of one architecture."""

    model: ModelSpec
    stft: StftSpec
    head: Kind
    stem_count: int
    default_frames: int
    """Of a crop, where nobody says the trainer's."""
    stems: tuple[str, ...] | None = None
    """Where all files of the architecture have the same."""
    stated: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the `model` section of a trainer's YAML → what the tensors say of them."""
    notes: tuple[str, ...] = ()

    def frames_of(self, chunk_samples: int | None) -> int:
        """Frames of chunks of so many samples."""
        return self.default_frames if chunk_samples is None else chunk_samples // self.stft.hop + 1


def stft_of(n_fft: int, usual_hop: int, said: Said) -> tuple[StftSpec, tuple[str, ...]]:
    """The STFT of a checkpoint, and a line for what is assumed of it.

    Args:
        n_fft: as its tensors say.
        usual_hop: of files of its kind, where nobody says another.
        said: of it.

    Raises:
        ConfigError: `said` has another size, or gives none that can be inverted.
    """
    if said.n_fft not in (None, n_fft):
        raise ConfigError(
            f"{said.origin}: an STFT of {said.n_fft}, the tensors have bands of one of {n_fft}; give the file that "
            "belongs to it, or leave --n-fft out"
        )
    settings = {"n_fft": n_fft, "hop": said.hop or usual_hop}
    if said.sample_rate_hz:
        settings["sample_rate_hz"] = said.sample_rate_hz
    assumed = f"a hop of {usual_hop} samples is assumed, as of nearly all such files; --hop gives another"
    return validate(StftSpec, settings, said.origin), () if said.hop else (assumed,)
