"""What a trained separator hears in stems that are said to hold vocals alone, or none."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from dataprep.batches.loader import read_batch, sounds_of
from dataprep.batches.order import Item, Read
from dataprep.errors import ManifestError
from dataprep.roles import Role
from dataprep.shards.columns import has_phase
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import SongRow
from vr_core.audio.estimates import stem_masks
from vr_core.audio.sound import heard_by, seen_by
from vr_core.errors import WeightsError
from vr_core.models.model import Model
from vr_core.specs.slots import Signals, Slot
from vr_core.specs.stft import StftSpec

WINDOWS = 8
"""Crops of a stem that are looked at, spread evenly; more tell little more."""
SUSPICIOUS = 0.08
"""Share of a stem's energy (measured, with a model of 800 steps: 72 clean stems 0.051 at most; with 6 dB less of the
other in them 0.089 at least; with 12 dB less 0.009 to 0.12; swapped ones 0.9)."""

_ROLES: tuple[Role, ...] = ("vocals", "instrumental")


class StemScore(NamedTuple):
    """How much of a stem the model takes for the other kind."""

    song: str
    role: Role
    foreign: float
    """Share of the energy: of vocals what the model keeps in the instrumental, of an instrumental what it takes out."""

    @property
    def is_suspicious(self) -> bool:
        """Whether a person should listen to it."""
        return self.foreign > SUSPICIOUS


def require_hearable(data: Dataset, model: Model, stft: StftSpec) -> None:
    """Check that a model can hear the stems of a data set.

    Args:
        data: a data set.
        model: that is to listen.
        stft: that the model was trained on.

    Raises:
        WeightsError: the model gives neither instrumental nor vocals.
        ManifestError: another sample rate, other STFT settings where it has none of its own, or no phase where it needs
            that.
    """
    if not {*_ROLES} & {*model.head.stems}:
        raise WeightsError(
            f"these weights answer with {', '.join(model.head.stems)}, which says nothing of what is foreign; "
            f"give some that answer with {' or '.join(_ROLES)}"
        )
    own = model.front.stft
    data.check(stft if own is None else data.stft.model_copy(update={"sample_rate_hz": own.sample_rate_hz}))
    for role in _ROLES:
        codec = data.manifest.codec_of(role)
        if model.front.takes_phase and not has_phase(codec):
            raise ManifestError(
                f"{data.folder}: stores {role} without phase ({codec}), which this model needs; prepare the music anew "
                "with `--codec polar8`, or give other weights"
            )


def listen(
    data: Dataset,
    model: Model,
    crop_frames: int,
    device: torch.device,
    on_song: Callable[[str], None] = lambda song: None,
) -> Iterator[StemScore]:
    """Score the vocals and instrumentals of a data set.

    Args:
        data: that the model can hear (`require_hearable`). Stems shorter than what it answers to are left out.
        model: on `device`, in evaluation mode; one that gives an instrumental.
        crop_frames: length of a window, in frames of what the model hears.
        device: where to compute.
        on_song: called with each song's id once it is done.

    Raises:
        ShardError, StorageError: a stem cannot be read.
    """
    for song in data.songs():
        for role in _ROLES:
            if role in song.stems and _frames(data, song, role, model, crop_frames):
                yield StemScore(song.id, role, _foreign(data, song, role, model, crop_frames, device))
        on_song(song.id)


@torch.inference_mode()
def _foreign(data: Dataset, song: SongRow, role: Role, model: Model, crop_frames: int, device: torch.device) -> float:
    frames, length = song.stems[role].frames, _frames(data, song, role, model, crop_frames)
    items = [Item(0, 0, length, (Read(song.id, role, start, length),)) for start in _starts(frames, length)]
    signals = Signals((Slot(role, role),), {role: (role,)}, phase=model.front.takes_phase)
    sound = seen_by(model.front, sounds_of(read_batch(data, items), signals, device, torch.float32)[role])
    heard = heard_by(model.front, sound, float(sound.magnitude.max()))
    context, taken_energy, whole_energy = model.front.context_frames, 0.0, 0.0
    # One window after the other: several at once of a large model may be more than a card holds.
    for i in range(len(heard)):
        window, magnitude = heard[i : i + 1], sound.magnitude[i : i + 1]
        mask = stem_masks(model.head, model(window), magnitude, ("instrumental",))[:, 0]
        taken = (mask if role == "vocals" else 1 - mask).abs() * magnitude
        counted = slice(context, -context) if 0 < 2 * context < magnitude.shape[-1] else slice(None)
        taken_energy += float(taken[..., counted].square().sum())
        whole_energy += float(magnitude[..., counted].square().sum())
    # A complex mask may be larger than one.
    return min(1.0, taken_energy / whole_energy) if whole_energy else 0.0


def _frames(data: Dataset, song: SongRow, role: Role, model: Model, crop_frames: int) -> int:
    """Stored frames of a window; 0 where a stem has too few for an answer."""
    frames = min(model.front.frames_for(data.stft, crop_frames), song.stems[role].frames)
    return frames if model.front.frames_on(data.stft, frames) >= model.front.least_frames else 0


def _starts(frames: int, length: int) -> Sequence[int]:
    count = min(WINDOWS, -(-frames // length))
    return [round(i * (frames - length) / max(1, count - 1)) for i in range(count)]
