"""What is read from the shapes of a checkpoint that is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vr_core.specs.heads import Kind
from vr_core.specs.models import ModelSpec
from vr_core.specs.stft import StftSpec

Shapes = Mapping[str, tuple[int, ...]]


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
        return self.default_frames if chunk_samples is None else max(1, chunk_samples // self.stft.hop + 1)
