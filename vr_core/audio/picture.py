"""One small PNG of a song: mixture, vocals and instrumental as spectrograms, one above the other.

Each panel is a mel spectrogram in decibels on the same colour scale, so that what moved where can be compared by eye.
"""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vr_core.audio.spectrogram import stft
from vr_core.errors import StorageError
from vr_core.files import whole_file
from vr_core.specs.stft import StftSpec

COLUMNS = 700
"""Columns of a finished picture, at most twice this while it is collected."""
RANGE_DB = 70.0
_MELS = 128
_COLOURS, _GREYS = 24, 8
"""Of the palette, for the spectrograms and for the text: a PNG is several times smaller with few colours."""
_TICKS_KHZ = (0.1, 0.5, 1, 2, 4, 8, 16)


class MelPicture:
    """Mel spectrogram of a signal of any length in bounded memory: whenever it grows too wide, neighbours merge."""

    def __init__(self, spec: StftSpec, columns: int = COLUMNS) -> None:
        self.spec = spec
        self.columns = columns
        self.samples = 0
        self._bank = _mel_bank(spec)
        self._power = np.zeros((_MELS, 0), np.float32)
        self._pending = np.zeros((2, 0), np.float32)
        self._frames = np.zeros((_MELS, 0), np.float32)
        self._per_column = 1  # frames in a column

    def update(self, block: NDArray[np.float32]) -> None:
        """Add the next block `[channel, sample]`."""
        self.samples += block.shape[-1]
        self._pending = np.concatenate([self._pending, block], axis=1)
        column = self._per_column * self.spec.hop
        ready = self._pending.shape[1] // column * column
        if ready:
            self._transform(self._pending[:, :ready])
            self._pending = self._pending[:, ready:]

    def update_frames(self, magnitude: NDArray[np.float32]) -> None:
        """Add the next frames of a spectrogram, `[channel, bin, frame]`; a picture is of blocks or of frames."""
        self.samples += magnitude.shape[2] * self.spec.hop
        self._frames = np.concatenate([self._frames, self._mel_power(magnitude)], axis=1)
        ready = self._frames.shape[1] // self._per_column * self._per_column
        if ready:
            self._add(self._frames[:, :ready])
            self._frames = self._frames[:, ready:]

    def decibels(self) -> NDArray[np.float32]:
        """`[mel, column]` in dB of a full-scale sine; at least one column."""
        left = self._pending.shape[1]
        if left:
            self._transform(np.pad(self._pending, ((0, 0), (0, -left % (self._per_column * self.spec.hop)))))
            self._pending = self._pending[:, :0]
        if frames := self._frames.shape[1]:
            self._add(np.pad(self._frames, ((0, 0), (0, -frames % self._per_column))))
            self._frames = self._frames[:, :0]
        power = self._power if self._power.shape[1] else np.zeros((_MELS, 1), np.float32)
        decibels: NDArray[np.float32] = 10 * np.log10(power + 1e-12)
        return decibels

    def _transform(self, signal: NDArray[np.float32]) -> None:
        # Blocks are transformed one by one: a frame at a seam sees a reflection, which no picture shows.
        magnitude = stft(torch.from_numpy(np.ascontiguousarray(signal)), self.spec)[0].abs().numpy()
        self._add(self._mel_power(magnitude[..., : signal.shape[1] // self.spec.hop]))

    def _mel_power(self, magnitude: NDArray[np.float32]) -> NDArray[np.float32]:
        power: NDArray[np.float32] = self._bank @ (magnitude**2).mean(axis=0)
        return power

    def _add(self, power: NDArray[np.float32]) -> None:
        """Frames `[mel, frame]` of whole columns."""
        power = power.reshape(_MELS, -1, self._per_column).mean(axis=2)
        self._power = np.concatenate([self._power, power], axis=1)
        while self._power.shape[1] > 2 * self.columns:
            even = self._power.shape[1] // 2 * 2
            rest = self._power[:, even:]
            self._power = self._power[:, :even].reshape(_MELS, -1, 2).mean(axis=2)
            self._per_column *= 2
            if rest.shape[1]:  # half a column: counted whole, one column among hundreds
                self._power = np.concatenate([self._power, rest], axis=1)


def draw(panels: Mapping[str, MelPicture], path: Path, title: str = "") -> None:
    """Write the panels, first on top, to the PNG `path`, whole or not at all.

    Args:
        panels: title of a panel → its signal; all of one length.
        path: usually `<song>.png`.
        title: over the picture.

    Raises:
        StorageError: the file could not be written.
    """
    data = _png(panels, title)
    try:
        with whole_file(path) as draft:
            draft.write_bytes(data)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); free some space there") from None


def _mel_bank(spec: StftSpec) -> NDArray[np.float32]:
    """Weights `[mel, bin]` that sum to one in each band."""
    import librosa

    rate_hz, bins = spec.sample_rate_hz, spec.bins
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Empty filters")  # they are filled below
        bank = librosa.filters.mel(sr=rate_hz, n_fft=spec.n_fft, n_mels=_MELS, htk=True, norm=None)[:, :bins]
    centres_hz = librosa.mel_frequencies(_MELS + 2, fmax=rate_hz / 2, htk=True)[1:-1]
    # A short window has fewer bins than there are low bands: such a band takes the nearest bin.
    for band in np.flatnonzero(bank.sum(axis=1) == 0):
        bank[band, min(round(centres_hz[band] * spec.n_fft / rate_hz), bins - 1)] = 1
    weights: NDArray[np.float32] = (bank / bank.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def _png(panels: Mapping[str, MelPicture], title: str) -> bytes:
    import librosa
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    images = {name: picture.decibels() for name, picture in panels.items()}
    colours = colormaps["magma"].resampled(_COLOURS)
    top = max(float(image.max()) for image in images.values())
    figure = Figure(figsize=(9.6, 0.6 + 2.0 * len(images)), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(len(images), 1, sharex=True, squeeze=False)[:, 0]
    spec = next(iter(panels.values())).spec
    mel_top = float(librosa.hz_to_mel(spec.sample_rate_hz / 2, htk=True))
    ticks = [khz for khz in _TICKS_KHZ if khz * 1000 <= spec.sample_rate_hz / 2]
    seconds = max(next(iter(panels.values())).samples, spec.hop) / spec.sample_rate_hz
    for axis, (name, image) in zip(axes, images.items(), strict=True):
        drawn = axis.imshow(
            image, origin="lower", aspect="auto", cmap=colours, vmin=top - RANGE_DB, vmax=top,
            extent=(0, seconds, 0, mel_top), interpolation="bilinear",
        )  # fmt: skip
        axis.set_title(name, loc="left", fontsize=11)
        axis.set_yticks([float(librosa.hz_to_mel(khz * 1000, htk=True)) for khz in ticks], [f"{k:g}" for k in ticks])
        axis.set_ylabel("kHz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(drawn, ax=list(axes), label="dB", pad=0.01, aspect=40)
    if title:
        figure.suptitle(title, fontsize=12)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a title in a script that no font here has is drawn as boxes
        canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    greys = np.linspace(0, 1, _GREYS)[:, None].repeat(3, axis=1)
    table = np.concatenate([colours(np.arange(_COLOURS))[:, :3], greys])
    palette = Image.new("P", (1, 1))
    palette.putpalette((255 * table).round().astype(np.uint8).tobytes())
    data = io.BytesIO()
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(data, format="png", optimize=True)
    return data.getvalue()
