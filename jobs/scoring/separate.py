"""From a song to its files: the mixture read more than once, in bounded memory, all files whole or none there."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from dataprep.audio.files import BLOCK_SAMPLES, regrouped
from dataprep.audio.resample import resample
from dataprep.audio.writing import full_scale, to_pcm, write_audio
from dataprep.errors import AudioError
from jobs.errors import NoDevice
from jobs.scoring.results import fitting_with_digest, scratch
from vr_core.audio.picture import MelPicture, draw
from vr_core.audio.separate import WindowSpec, separate
from vr_core.models.model import Model
from vr_core.weights import WeightsMeta

Block = NDArray[np.float32]
Open = Callable[[int], Iterable[Block]]
"""From a sample rate in Hz to a mixture from its start: `[2, sample]` blocks as `open_audio` cuts them."""


@dataclass(frozen=True)
class OutputSettings:
    """What is written for a song."""

    folder: Path
    format: Literal["wav", "flac"] = "wav"
    subtype: str = "FLOAT"
    picture: bool = True
    normalise: bool = False
    """Whether both files get the one gain, 0 dB at most, with which the louder stays within full scale."""


@dataclass(frozen=True)
class SeparatedSong:
    """The files of one song."""

    instrumental: Path
    vocals: Path
    picture: Path | None
    seconds: float
    sample_rate_hz: int
    gain_db: float = 0.0
    """Of both files against the song."""
    clipped_samples: dict[str, int] = field(default_factory=dict)
    """Stem → samples that the sample format could not hold. What the instrumental lost is in the vocals."""

    def files(self) -> dict[str, Path]:
        """Ending of a file's name → the file."""
        kind = self.instrumental.suffix
        found = {f".instrumental{kind}": self.instrumental, f".vocals{kind}": self.vocals, ".png": self.picture}
        return {ending: path for ending, path in found.items() if path}

    def at(self, files: dict[str, Path]) -> "SeparatedSong":
        """The same with the files in other places."""
        kind = self.instrumental.suffix
        return replace(
            self, instrumental=files[f".instrumental{kind}"], vocals=files[f".vocals{kind}"], picture=files.get(".png")
        )


def separate_song(
    open_mixture: Callable[[], Iterable[Block]],
    name: str,
    model: Model,
    meta: WeightsMeta,
    output: OutputSettings,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> SeparatedSong:
    """Write `<name>.instrumental`, `<name>.vocals` and a picture at the model's sample rate, over what is there.

    Args:
        open_mixture: gives the mixture from its start, `[2, sample]` blocks at the model's rate as `open_audio` cuts
            them; called twice.
        name: file name before the suffixes. One that is too long is cut, and ends with a digest of the whole.
        model: on `device`, in evaluation mode.
        meta: the model's description.
        output: where and how.
        device: where to compute.
        progress: called with the seconds of the song that are done.

    Raises:
        DataError, AudioWriteError, StorageError: as `make_files`.
    """
    with scratch(output.folder) as folder:
        made = make_files(
            lambda _: open_mixture(), meta.stft.sample_rate_hz, name, model, meta, output, folder, device, progress
        )
        stem = fitting_with_digest(output.folder, name, made.files())
        files = {ending: output.folder / f"{stem}{ending}" for ending in made.files()}
        for ending, path in made.files().items():
            os.replace(path, files[ending])
    return made.at(files)


def make_files(
    open_mixture: Open,
    rate_hz: int,
    title: str,
    model: Model,
    meta: WeightsMeta,
    output: OutputSettings,
    folder: Path,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> SeparatedSong:
    """Write the files of a song, stereo and at `rate_hz`, into a folder that is empty.

    The vocals are the mixture minus the instrumental *as written*. So the two files sum to the mixture, exactly up to
    the rounding of float32; those of a PCM format within half a step of it, and exactly where the mixture has no finer
    steps. Only what the vocals clip is missing; of what the instrumental clips, the vocals hold the rest.

    Args:
        open_mixture: the mixture; called two or three times, at the model's rate and at `rate_hz`.
        rate_hz: sample rate of the files. What lies above the model's band stays in the instrumental.
        title: stands over the picture.
        model: on `device`, in evaluation mode.
        meta: the model's description.
        output: how; its folder is not looked at.
        folder: where.
        device: where to compute.
        progress: called with the seconds of the song that are done.

    Raises:
        DataError: the mixture cannot be read.
        AudioWriteError, StorageError: no space, no permission.
    """
    instrumental = folder / f"instrumental.{output.format}"
    vocals = folder / f"vocals.{output.format}"
    report = (lambda samples: progress(samples / meta.stft.sample_rate_hz)) if progress else None
    pairs = _pairs(open_mixture, rate_hz, model, meta, device, report)
    clipped: Counter[str] = Counter()

    def stored(stem: str, blocks: Iterable[NDArray[np.floating]]) -> Iterator[NDArray[np.generic]]:
        for block in blocks:
            if output.subtype == "FLOAT":
                yield block
            else:
                steps, beyond = to_pcm(block, output.subtype)
                clipped[stem] += beyond
                yield steps

    gain = np.float32(1)
    kept: Iterable[Block] = (first for first, _ in pairs)
    if output.normalise:
        unscaled = folder / "unscaled.wav"
        gain = _gain(pairs, unscaled, rate_hz, full_scale(output.subtype))
        kept = (gain * block for block in _read(unscaled))
    samples = write_audio(instrumental, stored("instrumental", kept), rate_hz, output.subtype)
    if output.normalise:
        unscaled.unlink()
    panels = ("Mixture", "Vocals", "Instrumental") if output.picture else ()
    pictures = {panel: MelPicture(meta.stft.model_copy(update={"sample_rate_hz": rate_hz})) for panel in panels}

    def removed() -> Iterator[NDArray[np.floating]]:
        for mixed, left in zip_longest(open_mixture(rate_hz), _read(instrumental)):
            if mixed is None or left is None or mixed.shape != left.shape:
                raise AudioError(f"{title}: was changed while it was separated; separate it again")
            scaled = mixed if gain == 1 else gain * mixed
            # Steps of a PCM format are subtracted without another rounding.
            sung = scaled - (left if output.subtype == "FLOAT" else left.astype(np.float64))
            for panel, block in zip(panels, (scaled, sung.astype(np.float32), left), strict=False):
                pictures[panel].update(block)
            yield sung

    write_audio(vocals, stored("vocals", removed()), rate_hz, output.subtype)
    picture = folder / "picture.png" if output.picture else None
    if picture:
        draw(pictures, picture, title=title)
    return SeparatedSong(
        instrumental, vocals, picture, samples / rate_hz, rate_hz, round(20 * math.log10(gain), 3) + 0.0,
        {"instrumental": clipped["instrumental"], "vocals": clipped["vocals"]},
    )  # fmt: skip


def _pairs(
    open_mixture: Open,
    rate_hz: int,
    model: Model,
    meta: WeightsMeta,
    device: torch.device | str,
    report: Callable[[int], None] | None,
) -> Iterator[tuple[Block, Block]]:
    """Instrumental and vocals at `rate_hz`: at another rate than the model's, mixture − resampled vocals, and these."""
    model_hz = meta.stft.sample_rate_hz
    windows = WindowSpec(frames=meta.crop_frames, overlap_frames=meta.crop_frames // 2)
    pairs = separate(model, meta.stft, open_mixture(model_hz), windows, device, report)
    if rate_hz == model_hz:
        yield from pairs
        return
    sung = regrouped(resample((vocals for _, vocals in pairs), 2, model_hz, rate_hz), BLOCK_SAMPLES)
    for mixed, vocals in zip_longest(open_mixture(rate_hz), sung):
        # Both ways of resampling round the length: the vocals may end a few samples earlier or later than the song.
        if mixed is None:
            continue
        heard = np.zeros_like(mixed)
        if vocals is not None:
            end = min(heard.shape[1], vocals.shape[1])
            heard[:, :end] = vocals[:, :end]
        yield mixed - heard, heard


def _gain(pairs: Iterable[tuple[Block, Block]], unscaled: Path, rate_hz: int, full_scale: float) -> np.float32:
    """The gain, 1 at most, with which both of a pair stay within full scale; the first of each goes to `unscaled`."""
    peak = full_scale

    def watched() -> Iterator[Block]:
        nonlocal peak
        for pair in pairs:
            peak = max(peak, *(float(np.abs(block).max(initial=0)) for block in pair))
            yield pair[0]

    write_audio(unscaled, watched(), rate_hz, "FLOAT")
    return np.float32(full_scale / peak)


def _read(path: Path) -> Iterator[Block]:
    """A file that was just written, in the blocks of `open_audio`."""
    return (block.T for block in soundfile.blocks(path, BLOCK_SAMPLES, dtype="float32", always_2d=True))


def pick_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to compute on; auto is a GPU where there is one.

    Raises:
        NoDevice: cuda asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise NoDevice("--device cuda: torch sees no GPU here; use --device auto, or check the driver with nvidia-smi")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
