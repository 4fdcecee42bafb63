"""A picture of a song of a data set, from what is stored: mixture, vocals and instrumental, one above the other."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from dataprep.batches.loader import read_batch, sounds_of
from dataprep.batches.order import Item, Read
from dataprep.roles import ROLES, Role
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import SongRow
from dataprep.shards.writer import BATCH_FRAMES
from vr_core.audio.picture import MelPicture, draw
from vr_core.specs.slots import Signals

_CPU = torch.device("cpu")


def draw_song(
    data: Dataset, song: str, path: Path, draw: Callable[[Mapping[str, MelPicture], Path, str], None] = draw
) -> None:
    """Write the picture of a song to the PNG `path`, in bounded memory whatever its length.

    Raises:
        ManifestError: no such song.
        ShardError, StorageError: its frames cannot be read, or the picture cannot be written.
    """
    row = data.song(song)
    panels = {}
    for role in ("mixture", "vocals", "instrumental"):
        reads = _reads(row, role)
        if reads:
            panels[role] = picture = MelPicture(data.stft)
            for magnitude in _magnitudes(data, row, reads):
                picture.update_frames(magnitude.numpy())
            picture.samples = row.samples
    draw(panels, path, f"{row.id} ({row.split}, as stored)")


def _reads(row: SongRow, role: Role) -> tuple[Role, ...]:
    """The stems that add up to the role: a mixture that is not stored is the sum of the others."""
    if role in row.stems:
        return (role,)
    return tuple(r for r in ROLES if r in row.stems) if role == "mixture" and len(row.stems) == 2 else ()


def _magnitudes(data: Dataset, row: SongRow, roles: tuple[Role, ...]) -> Iterator[torch.Tensor]:
    for start in range(0, row.frames, BATCH_FRAMES):
        frames = min(BATCH_FRAMES, row.frames - start)
        batch = read_batch(data, [Item(0, 0, frames, tuple(Read(row.id, role, start, frames) for role in roles))])
        yield sounds_of(batch, Signals((), {"sum": roles}), _CPU, torch.float32)["sum"].magnitude[0]
