"""From a song to its files: the mixture read more than once, in bounded memory, all files whole or none there."""

import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from dataprep.audio.files import BLOCK_SAMPLES
from dataprep.audio.writing import full_scale, to_pcm, write_audio
from dataprep.errors import AudioError
from jobs.errors import NoDevice
from jobs.scoring.results import fitting_with_digest, scratch
from jobs.scoring.streams import Block, Open, stems_at
from vr_core.audio.picture import MelPicture, draw
from vr_core.audio.separate import WindowSpec
from vr_core.audio.stems import GivenStems, given_stems
from vr_core.errors import ConfigError
from vr_core.models.model import Model
from vr_core.weights import WeightsMeta


@dataclass(frozen=True)
class OutputSettings:
    """What is made of a song, and written."""

    folder: Path
    format: Literal["wav", "flac"] = "wav"
    subtype: str = "FLOAT"
    picture: bool = True
    normalise: bool = False
    """Whether all files get the one gain, 0 dB at most, with which the loudest stays within full scale."""
    stems: tuple[str, ...] | None = None
    """Which of those that the model gives; None: instrumental and vocals where it gives these, else all."""
    window_s: float | None = None
    """Length of what the model hears at once; None: as in its training."""


@dataclass(frozen=True)
class SeparatedSong:
    """The files of one song."""

    stems: dict[str, Path]
    """Stem → its file."""
    picture: Path | None
    seconds: float
    sample_rate_hz: int
    gain_db: float = 0.0
    """Of all files against the song."""
    clipped_samples: dict[str, int] = field(default_factory=dict)
    """Stem → samples that the sample format could not hold. What others lost is in the rest."""
    rest: str = "vocals"
    """The stem that is what others, as written, leave of the song."""

    def files(self) -> dict[str, Path]:
        """Ending of a file's name → the file."""
        found = {_ending(stem, path): path for stem, path in self.stems.items()}
        return {**found, ".png": self.picture} if self.picture else found

    def at(self, files: dict[str, Path]) -> "SeparatedSong":
        """The same with the files in other places."""
        stems = {stem: files[_ending(stem, path)] for stem, path in self.stems.items()}
        return replace(self, stems=stems, picture=files.get(".png"))


def _ending(stem: str, path: Path) -> str:
    return f".{stem}{path.suffix}"


def windows_for(meta: WeightsMeta, window_s: float | None = None) -> WindowSpec:
    """How songs are cut for a model: windows that overlap by half, as long as its crops of training or `window_s`.

    Longer windows are computed fewer at once, so that memory stays about the same until a single one needs more.

    Args:
        meta: the model's description.
        window_s: seconds that the model hears at once, its context included.

    Raises:
        ConfigError: nothing is left of a window without its context.
    """
    context = meta.model.front.context_frames
    heard = meta.crop_frames if window_s is None else round(window_s * meta.stft.sample_rate_hz / meta.stft.hop)
    frames = heard - 2 * context
    if frames < 1 and window_s is None:  # crops that were shorter than what separation adds
        frames = meta.crop_frames
    if frames < 1:
        least_s = (2 * context + 1) * meta.stft.hop / meta.stft.sample_rate_hz
        raise ConfigError(f"--window-s {window_s:g}: too short for this model; give at least {least_s:.2f}")
    usual = WindowSpec()
    batch = max(1, min(usual.batch, usual.batch * meta.crop_frames // heard))
    return WindowSpec(frames=frames, overlap_frames=frames // 2, batch=batch)


def chosen_stems(given: GivenStems, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The stems to write, each once.

    Args:
        given: what the model gives.
        wanted: names, or `all` for every one; None for the usual ones.

    Raises:
        ConfigError: a name that is not among them, or none at all.
    """
    if wanted is None:
        return given.usual
    unknown = [stem for stem in wanted if stem not in (*given.names, "all")]
    if unknown or not wanted:
        raise ConfigError(
            f"--stems {','.join(unknown)}: these weights give {', '.join(given.names)}; name some of them, or all"
        )
    return given.names if "all" in wanted else tuple(dict.fromkeys(wanted))


def separate_song(
    open_mixture: Callable[[], Iterable[Block]],
    name: str,
    model: Model,
    meta: WeightsMeta,
    output: OutputSettings,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> SeparatedSong:
    """Write `<name>.<stem>` for each stem and a picture at the model's sample rate, over what is there.

    Args:
        open_mixture: gives the mixture from its start, `[2, sample]` blocks at the model's rate as `open_audio` cuts
            them; called twice, and once more for a model that hears parts of the song's peak.
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

    The rest (`vr_core.audio.stems`) is the mixture minus others *as written*. So instrumental and vocals sum to the
    mixture, exactly up to the rounding of float32; those of a PCM format within half a step of it, and exactly where
    the mixture has no finer steps. Only what the rest clips is missing; of what the others clip, the rest holds it.

    Args:
        open_mixture: the mixture; called two to four times, at the model's rate and at `rate_hz`.
        rate_hz: sample rate of the files. What lies above the model's band stays in the instrumental, or in the rest.
        title: stands over the picture.
        model: on `device`, in evaluation mode.
        meta: the model's description.
        output: how; its folder is not looked at.
        folder: where.
        device: where to compute.
        progress: called with the seconds of the song that are done.

    Raises:
        ConfigError: stems that the model does not give, or windows that are too short for it.
        DataError: the mixture cannot be read.
        AudioWriteError, StorageError: no space, no permission.
        NoMemory: windows that do not fit.
    """
    given = given_stems(model.head.stems)
    wanted = chosen_stems(given, output.stems)
    needed = given.needed(wanted)
    masked = [stem for stem in needed if stem in given.masked]
    files = {stem: folder / f"{stem}.{output.format}" for stem in needed}
    report = (lambda samples: progress(samples / meta.stft.sample_rate_hz)) if progress else None
    windows = windows_for(meta, output.window_s)
    separated = stems_at(open_mixture, rate_hz, model, meta, wanted, windows, device, report)
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
    if not output.normalise and len(masked) == 1:
        kept = {masked[0]: (blocks[masked[0]] for blocks in separated)}
    else:  # the model's work is done once, and kept until the files can be written one after the other
        unscaled = folder / "unscaled.wav"
        peak = _keep(separated, masked, wanted, unscaled, rate_hz)
        if output.normalise and peak > full_scale(output.subtype):
            gain = np.float32(full_scale(output.subtype) / peak)
        kept = {stem: (gain * block for block in _read(unscaled, 2 * i)) for i, stem in enumerate(masked)}
    for stem, blocks in kept.items():
        samples = write_audio(files[stem], stored(stem, blocks), rate_hz, output.subtype)
    (folder / "unscaled.wav").unlink(missing_ok=True)
    shown = sorted(wanted, key=lambda stem: stem != "vocals") if output.picture else []
    spec = meta.stft.model_copy(update={"sample_rate_hz": rate_hz})
    pictures = {stem: MelPicture(spec) for stem in (("mixture", *shown) if output.picture else ())}

    def left() -> Iterator[NDArray[np.floating]]:
        """The rest; and what the pictures show on the way."""
        for mixed, *parts in zip_longest(open_mixture(rate_hz), *(_read(files[stem]) for stem in masked)):
            if mixed is None or any(part is None or part.shape != mixed.shape for part in parts):
                raise AudioError(f"{title}: was changed while it was separated; separate it again")
            heard = {"mixture": mixed if gain == 1 else gain * mixed, **dict(zip(masked, parts, strict=True))}
            rest: NDArray[np.floating] = heard["mixture"]
            for stem in given.rest_of if given.rest in needed else ():
                # Steps of a PCM format are subtracted without another rounding.
                rest = rest - (heard[stem] if output.subtype == "FLOAT" else heard[stem].astype(np.float64))
            heard[given.rest] = rest.astype(np.float32)
            for name, picture in pictures.items():
                picture.update(heard[name])
            yield rest

    if given.rest in needed:
        write_audio(files[given.rest], stored(given.rest, left()), rate_hz, output.subtype)
    elif output.picture:
        for _ in left():
            pass
    for stem in set(needed) - set(wanted):
        files[stem].unlink()
    picture = folder / "picture.png" if output.picture else None
    if picture:
        draw({name.capitalize(): drawn for name, drawn in pictures.items()}, picture, title=title)
    return SeparatedSong(
        {stem: files[stem] for stem in wanted}, picture, samples / rate_hz, rate_hz,
        round(20 * math.log10(gain), 3) + 0.0, {stem: clipped[stem] for stem in wanted}, given.rest,
    )  # fmt: skip


def _keep(
    separated: Iterable[dict[str, Block]], masked: Sequence[str], wanted: Collection[str], path: Path, rate_hz: int
) -> float:
    """Write the masked stems into one file, two channels each, and return the highest level of the wanted ones."""
    peak = 0.0

    def watched() -> Iterator[Block]:
        nonlocal peak
        for blocks in separated:
            peak = max(peak, *(float(np.abs(blocks[stem]).max(initial=0)) for stem in wanted))
            yield np.concatenate([blocks[stem] for stem in masked])

    write_audio(path, watched(), rate_hz, "FLOAT")
    return peak


def _read(path: Path, first_channel: int = 0) -> Iterator[Block]:
    """Two channels of a file that was just written, in the blocks of `open_audio`."""
    return (
        block.T[first_channel : first_channel + 2]
        for block in soundfile.blocks(path, BLOCK_SAMPLES, dtype="float32", always_2d=True)
    )


def pick_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to compute on; auto is a GPU where there is one.

    Raises:
        NoDevice: cuda asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise NoDevice("--device cuda: torch sees no GPU here; use --device auto, or check the driver with nvidia-smi")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
