"""From a song to its files: the mixture read twice, in bounded memory, each file whole or absent."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import open_audio, write_audio
from jobs.errors import NoDevice
from vr_core.audio.picture import MelPicture, draw
from vr_core.audio.separate import WindowSpec, separate
from vr_core.weights import WeightsMeta

Block = NDArray[np.float32]
SUBTYPES = {"wav": ("FLOAT", "PCM_16", "PCM_24"), "flac": ("PCM_24", "PCM_16")}
"""File format → libsndfile's sample formats, the default first. FLOAT neither clips nor rounds."""


@dataclass(frozen=True)
class OutputSettings:
    """What is written for a song."""

    folder: Path
    format: Literal["wav", "flac"] = "wav"
    subtype: str = "FLOAT"
    picture: bool = True


@dataclass(frozen=True)
class SeparatedSong:
    """The files of one song."""

    instrumental: Path
    vocals: Path
    picture: Path | None
    seconds: float


def separate_song(
    open_mixture: Callable[[], Iterable[Block]],
    name: str,
    model: nn.Module,
    meta: WeightsMeta,
    output: OutputSettings,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> SeparatedSong:
    """Write `<name>.instrumental`, `<name>.vocals` and a picture; stereo, at the model's sample rate.

    The vocals are the mixture minus the instrumental *as written*, so that the two files sum to the mixture whatever
    the sample format rounds or clips.

    Args:
        open_mixture: gives the mixture from its start, `[2, sample]` blocks at the model's rate as `open_audio` cuts
            them; called twice.
        name: file name before the suffixes.
        model: on `device`, in evaluation mode.
        meta: the model's description.
        output: where and how.
        device: where to compute.
        progress: called with the seconds of the song that are done.

    Raises:
        DataError: the mixture cannot be read.
        AudioWriteError, StorageError: no space, no permission.
    """
    rate_hz = meta.stft.sample_rate_hz
    instrumental = output.folder / f"{name}.instrumental.{output.format}"
    vocals = output.folder / f"{name}.vocals.{output.format}"
    windows = WindowSpec(frames=meta.crop_frames, overlap_frames=meta.crop_frames // 2)
    report = (lambda samples: progress(samples / rate_hz)) if progress else None
    pairs = separate(model, meta.stft, open_mixture(), windows, device, report)
    samples = write_audio(instrumental, (first for first, _ in pairs), rate_hz, output.subtype)
    panels = ("Mixture", "Vocals", "Instrumental") if output.picture else ()
    pictures = {panel: MelPicture(meta.stft) for panel in panels}

    def removed() -> Iterator[Block]:
        written = open_audio(AudioSource(instrumental), rate_hz)
        for mixed, kept in zip(open_mixture(), written, strict=True):
            for panel, block in zip(panels, (mixed, mixed - kept, kept), strict=False):
                pictures[panel].update(block)
            yield mixed - kept

    write_audio(vocals, removed(), rate_hz, output.subtype)
    picture = output.folder / f"{name}.png" if output.picture else None
    if picture:
        draw(pictures, picture, title=name)
    return SeparatedSong(instrumental, vocals, picture, samples / rate_hz)


def pick_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to compute on; auto is a GPU where there is one.

    Raises:
        NoDevice: cuda asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise NoDevice("--device cuda: torch sees no GPU here; use --device auto, or check the driver with nvidia-smi")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
