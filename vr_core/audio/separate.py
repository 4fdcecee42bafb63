"""A mixture of any length into its stems, in bounded memory.

Three generators, each holding a few windows of frames at most: `_analyse` turns blocks of samples into frames,
`_mask` runs the model over overlapping windows and cross-fades their masks, `_synthesise` turns frames back into
samples. Cutting changes nothing: the result is the one of the whole song in one go, its ends included.

Legend: `[channel, sample]` signals, `[channel, bin, frame]` spectrograms, `[stem, channel, bin, frame]` of stems.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from vr_core.audio.estimates import stem_masks
from vr_core.audio.sound import Sound, heard_by
from vr_core.audio.spectrogram import istft, stft
from vr_core.audio.stems import given_stems
from vr_core.config import Spec
from vr_core.models.model import Model
from vr_core.specs.bounds import Count
from vr_core.specs.stft import StftSpec

Block = NDArray[np.float32]


class WindowSpec(Spec):
    """How a song is cut for the model."""

    frames: Count = 256
    """Length of a window; a model with context hears as many frames more at either side as it asks for."""
    overlap_frames: Annotated[int, Field(ge=0)] = 128
    """Frames that a window shares with the next; their masks cross-fade."""
    batch: Count = 8
    """Windows that the model computes at once."""

    @model_validator(mode="after")
    def _moves_on(self) -> "WindowSpec":
        if self.overlap_frames >= self.frames:
            raise ValueError(f"overlap_frames {self.overlap_frames} must be less than frames {self.frames}")
        return self

    @property
    def step(self) -> int:
        """Frames from one window's start to the next."""
        return self.frames - self.overlap_frames


def separate(
    model: Model,
    spec: StftSpec,
    blocks: Iterable[Block],
    windows: WindowSpec | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
    *,
    stems: Collection[str] = ("instrumental", "vocals"),
    song_peak: float | None = None,
) -> Iterator[dict[str, Block]]:
    """Stems of a mixture, block by block.

    Masks are applied to the mixture's complex spectrogram; the mixture's Nyquist bin stays in the instrumental where
    the model does not hear it. The rest is the mixture minus others (`vr_core.audio.stems`), so that they sum to it.

    Args:
        model: on `device`, in evaluation mode.
        spec: the spectrogram that the model was trained on; the signal must have its sample rate.
        blocks: the mixture, `[channel, sample]` blocks of any lengths.
        windows: how to cut; by default windows of 256 frames that overlap by half.
        device: where to compute.
        progress: called with the number of samples finished so far.
        stems: which of `given_stems(model.head.stems).names` are wanted; what they are made of is given as well.
        song_peak: of the same mixture, from `peak_magnitude`; only for a model whose front asks for it.

    Yields:
        Stem → `[channel, sample]`, equally long in each block; together as long as the mixture.

    Raises:
        ValueError: a stem that the model does not give, or a front that needs the song's peak without it.
    """
    given = given_stems(model.head.stems)
    if unknown := set(stems) - set(given.names):
        raise ValueError(f"stems {', '.join(sorted(unknown))}: this model gives {', '.join(given.names)}")
    needed = given.needed(stems)
    masked = tuple(stem for stem in needed if stem in given.masked)
    mixture = _SampleQueue()
    windows = windows or WindowSpec()
    pieces = _analyse(mixture.watch(blocks), spec, windows.batch * windows.step, torch.device(device))
    done = 0
    for signal in _synthesise(_mask(pieces, model, spec, windows, masked, song_peak), spec):
        found: dict[str, Block] = dict(zip(masked, signal.cpu().numpy(), strict=True))
        mixed = mixture.take(signal.shape[-1])
        if given.rest in needed:
            found[given.rest] = mixed
            for stem in given.rest_of:
                found[given.rest] = found[given.rest] - found[stem]
        yield found
        done += signal.shape[-1]
        if progress:
            progress(done)


def peak_magnitude(
    blocks: Iterable[Block], spec: StftSpec, *, nyquist: bool, device: torch.device | str = "cpu"
) -> float:
    """The largest magnitude of a song's spectrogram, in bounded memory; the Nyquist bin counts where it is heard.

    Args:
        blocks: `[channel, sample]` blocks of any lengths.
        spec: the spectrogram's.
        nyquist: whether the model hears the Nyquist bin.
        device: where to compute.
    """
    pieces = _analyse(iter(blocks), spec, _PEAK_FRAMES, torch.device(device))
    return max(
        (float((piece.with_nyquist() if nyquist else piece.spectrum).abs().max()) for piece in pieces), default=0
    )


def mask_spectrum(model: Model, spectrum: Tensor, windows: WindowSpec) -> Tensor:
    """A whole mixture's spectrogram under the model's masks, cut and cross-faded as `separate` does.

    Args:
        model: as in `separate`; one that does not hear the Nyquist bin.
        spectrum: `[channel, bin, frame]`, complex, on the model's device.
        windows: how to cut.

    Returns:
        The instrumental's, of the same shape.
    """
    whole = _Piece(spectrum, spectrum.new_zeros(spectrum.shape[0], spectrum.shape[-1]), samples=0)
    # Which STFT it is of does not matter: the model hears the frames as they are.
    masked = _mask(iter([whole]), model, StftSpec(), windows, ("instrumental",), float(spectrum.abs().max()))
    return torch.cat([piece.spectrum for piece in masked], dim=-1)[0]


_PEAK_FRAMES = 1024
"""Of a song that are looked at together for its peak."""


@dataclass(frozen=True)
class _Piece:
    """Consecutive frames of a song, or of its stems."""

    spectrum: Tensor
    """`[channel, bin, frame]` or `[stem, channel, bin, frame]`, complex."""
    nyquist: Tensor
    """The same without the bin."""
    samples: int | None = None
    """Length of the whole song; comes with its last piece, None in those before."""

    @property
    def frames(self) -> int:
        return self.spectrum.shape[-1]

    def with_nyquist(self) -> Tensor:
        """The Nyquist bin last."""
        return torch.cat([self.spectrum, self.nyquist[..., None, :]], dim=-2)

    def times(self, masks: Tensor, *, nyquist: bool, keeper: int | None) -> "_Piece":
        """The stems of a mixture.

        Args:
            masks: `[stem, channel, bin, frame]`.
            nyquist: whether their last bin is the Nyquist bin's.
            keeper: the stem that keeps the mixture's Nyquist bin where they have none.
        """
        if nyquist:
            return replace(self, spectrum=self.spectrum * masks[:, :, :-1], nyquist=self.nyquist * masks[:, :, -1])
        kept = self.nyquist.new_zeros(len(masks), *self.nyquist.shape)
        if keeper is not None:
            kept[keeper] = self.nyquist
        return replace(self, spectrum=self.spectrum * masks, nyquist=kept)

    def between_silence(self, before: int, after: int) -> "_Piece":
        """With so many frames of zeros at its ends."""
        pad = torch.nn.functional.pad
        return replace(self, spectrum=pad(self.spectrum, (before, after)), nyquist=pad(self.nyquist, (before, after)))

    def cut(self, start: int, stop: int | None = None) -> "_Piece":
        return replace(self, spectrum=self.spectrum[..., start:stop], nyquist=self.nyquist[..., start:stop])

    def followed_by(self, other: "_Piece") -> "_Piece":
        return _Piece(
            torch.cat([self.spectrum, other.spectrum], dim=-1),
            torch.cat([self.nyquist, other.nyquist], dim=-1),
            other.samples,
        )


class _SampleQueue:
    """Samples of the mixture that went into the analysis and did not come out of the synthesis yet."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []

    def watch(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            self._blocks.append(block)
            yield block

    def take(self, samples: int) -> Block:
        taken = []
        while samples:
            block = self._blocks.pop(0)
            taken.append(block[:, :samples])
            if block.shape[-1] > samples:
                self._blocks.insert(0, block[:, samples:])
            samples -= taken[-1].shape[-1]
        return np.concatenate(taken, axis=1)


def _margin(spec: StftSpec) -> int:
    """Frames at a cut that see, or need, samples from beyond it."""
    return -(-spec.n_fft // (2 * spec.hop))


@torch.inference_mode()
def _analyse(blocks: Iterator[Block], spec: StftSpec, chunk_frames: int, device: torch.device) -> Iterator[_Piece]:
    """Frames of a signal, about `chunk_frames` at a time; chunks begin at whole hops and overlap by the margin."""
    margin = _margin(spec)
    wanted = (chunk_frames + 2 * margin) * spec.hop + spec.n_fft
    held: Tensor | None = None  # begins `skip` frames before the first frame still to come
    skip = total = 0
    waiting: list[Tensor] = []
    for block in blocks:
        waiting.append(torch.from_numpy(np.ascontiguousarray(block, dtype=np.float32)).to(device))
        total += block.shape[-1]
        if sum(b.shape[-1] for b in waiting) + (0 if held is None else held.shape[-1]) < wanted:
            continue
        held = torch.cat([*([] if held is None else [held]), *waiting], dim=-1)
        waiting = []
        ready = (held.shape[-1] - spec.n_fft // 2) // spec.hop + 1
        yield _Piece(*stft(held, spec)).cut(skip, ready)
        held = held[:, (ready - margin) * spec.hop :]
        skip = margin
    if total:
        held = torch.cat([*([] if held is None else [held]), *waiting], dim=-1)
        yield replace(_Piece(*stft(held, spec)).cut(skip), samples=total)


@torch.inference_mode()
def _mask(
    pieces: Iterator[_Piece],
    model: Model,
    spec: StftSpec,
    windows: WindowSpec,
    stems: tuple[str, ...],
    song_peak: float | None,
) -> Iterator[_Piece]:
    """The same frames multiplied by the model's masks of `stems`, cross-faded where windows overlap.

    Frames are counted from the first that a window can hear: where the model hears context, silence is put before and
    after the song, and a window is that much longer than the frames of it that count.
    """
    if model.front.scale == "song_peak" and song_peak is None:
        raise ValueError("this model hears parts of the song's peak; give song_peak, from peak_magnitude")
    held: _Piece | None = None
    first = start = 0  # frame at which `held` begins; at which the next window begins
    weighted = torch.empty(0)
    weight = torch.empty(0)
    nyquist, context = model.front.nyquist, model.front.context_frames
    keeper = stems.index("instrumental") if "instrumental" in stems else None
    most = windows.frames + 2 * context
    for song_piece in pieces:
        piece = song_piece.between_silence(0 if held else context, 0 if song_piece.samples is None else context)
        empty = torch.zeros_like((piece.with_nyquist() if nyquist else piece.spectrum).real)
        empty = empty.expand(len(stems), *empty.shape).clone()
        if held is None:
            held, weighted, weight = piece, empty, empty[0, 0, 0].clone()
        else:
            held = held.followed_by(piece)
            weighted, weight = torch.cat([weighted, empty], dim=-1), torch.cat([weight, empty[0, 0, 0]])
        end = first + held.frames
        starts = list(range(start, end - most + 1, windows.step))
        start += len(starts) * windows.step
        if held.samples is not None and (not starts or starts[-1] + most < end):
            # The last window moves back to end with the song; a song shorter than a window is one short window.
            starts.append(max(end - most, 0))
        length = min(most, end)
        # Without a window there may be fewer frames than context, and none to fade.
        fade = torch.nn.functional.pad(_fade(max(length - 2 * context, 0), weighted.device), (context, context))
        for i in range(0, len(starts), windows.batch):
            group = [s - first for s in starts[i : i + windows.batch]]
            spectrum = held.with_nyquist() if nyquist else held.spectrum
            mixed = torch.stack([spectrum[..., s : s + length] for s in group])
            sound = Sound(spec, mixed.abs(), mixed)
            answer = model(heard_by(model.front, sound, song_peak))
            masks = stem_masks(model.head, answer, sound.magnitude, stems)
            if masks.is_complex() and not weighted.is_complex():
                weighted = weighted.to(masks.dtype)
            for s, mask in zip(group, masks, strict=True):
                weighted[..., s : s + length] += mask * fade
                weight[s : s + length] += fade
        # No later window begins before the last one done, not even the one that moves back.
        final = held.frames if held.samples is not None else max(start - windows.step, 0) - first
        if final > 0:
            counted = slice(max(context - first, 0), final - (context if held.samples is not None else 0))
            if counted.stop > counted.start:
                masks = weighted[..., counted] / weight[counted]
                yield held.cut(counted.start, counted.stop).times(masks, nyquist=nyquist, keeper=keeper)
            held, weighted, weight = held.cut(final), weighted[..., final:], weight[final:]
            first += final


def _fade(frames: int, device: torch.device) -> Tensor:
    """Weight `[frame]` of a window's masks: a Hann window without its zeros, so that the song's ends count too."""
    return torch.sin(math.pi * (torch.arange(frames, device=device, dtype=torch.float32) + 0.5) / frames) ** 2


@torch.inference_mode()
def _synthesise(pieces: Iterator[_Piece], spec: StftSpec) -> Iterator[Tensor]:
    """Samples `[stem, channel, sample]` of consecutive frames; a sample comes once all frames over it are there."""
    margin = _margin(spec)
    held: _Piece | None = None
    first = skip = 0  # frame of the song at which `held` begins; hops of its signal that have been given out
    for piece in pieces:
        held = piece if held is None else held.followed_by(piece)
        if held.samples is not None:
            yield istft(held.spectrum, held.samples - first * spec.hop, spec, held.nyquist)[..., skip * spec.hop :]
            return
        ready = held.frames - 1 - margin
        if ready > max(skip, margin):
            # One hop short of all frames: `istft` takes a length for which padding gives exactly these frames.
            signal = istft(held.spectrum, (held.frames - 2) * spec.hop, spec, held.nyquist)
            yield signal[..., skip * spec.hop : ready * spec.hop]
            first, held, skip = first + ready - margin, held.cut(ready - margin), margin
