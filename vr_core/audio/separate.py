"""A mixture of any length into instrumental and vocals, in bounded memory.

Three generators, each holding a few windows of frames at most: `_analyse` turns blocks of samples into frames,
`_mask` runs the model over overlapping windows and cross-fades their masks, `_synthesise` turns frames back into
samples. Cutting changes nothing: the result is the one of the whole song in one go, its ends included.

Legend: `[channel, sample]` signals, `[channel, bin, frame]` spectrograms.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from vr_core.audio.estimates import instrumental_mask
from vr_core.audio.spectrogram import istft, stft
from vr_core.config import Spec
from vr_core.models.model import Model
from vr_core.specs.bounds import Count
from vr_core.specs.stft import StftSpec

Block = NDArray[np.float32]


class WindowSpec(Spec):
    """How a song is cut for the model."""

    frames: Count = 256
    """Length of a window: the crop length of training."""
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
) -> Iterator[tuple[Block, Block]]:
    """Instrumental and vocals of a mixture, block by block.

    The mask is applied to the mixture's complex spectrogram; the mixture's Nyquist bin stays in the instrumental where
    the model does not hear it. Vocals are the mixture minus the instrumental, so that the two sum to it.

    Args:
        model: on `device`, in evaluation mode; magnitude `[batch, channel, bin, frame]` to a mask of that shape.
        spec: the spectrogram that the model was trained on; the signal must have its sample rate.
        blocks: the mixture, `[channel, sample]` blocks of any lengths.
        windows: how to cut; by default windows of 256 frames that overlap by half.
        device: where to compute.
        progress: called with the number of samples finished so far.

    Yields:
        `(instrumental, vocals)`, each `[channel, sample]`; together as long as the mixture.
    """
    mixture = _SampleQueue()
    windows = windows or WindowSpec()
    pieces = _analyse(mixture.watch(blocks), spec, windows.batch * windows.step, torch.device(device))
    done = 0
    for signal in _synthesise(_mask(pieces, model, windows), spec):
        instrumental: Block = signal.cpu().numpy()
        yield instrumental, mixture.take(instrumental.shape[-1]) - instrumental
        done += instrumental.shape[-1]
        if progress:
            progress(done)


def mask_spectrum(model: Model, spectrum: Tensor, windows: WindowSpec) -> Tensor:
    """A whole mixture's spectrogram under the model's masks, cut and cross-faded as `separate` does.

    Args:
        model: as in `separate`.
        spectrum: `[channel, bin, frame]`, complex, on the model's device.
        windows: how to cut.

    Returns:
        The instrumental's, of the same shape.
    """
    whole = _Piece(spectrum, spectrum.new_zeros(spectrum.shape[0], spectrum.shape[-1]), samples=0)
    return torch.cat([piece.spectrum for piece in _mask(iter([whole]), model, windows)], dim=-1)


@dataclass(frozen=True)
class _Piece:
    """Consecutive frames of a song."""

    spectrum: Tensor
    """`[channel, bin, frame]`, complex."""
    nyquist: Tensor
    """`[channel, frame]`, complex."""
    samples: int | None = None
    """Length of the whole song; comes with its last piece, None in those before."""

    @property
    def frames(self) -> int:
        return self.spectrum.shape[-1]

    def with_nyquist(self) -> Tensor:
        """`[channel, bin, frame]`, the Nyquist bin last."""
        return torch.cat([self.spectrum, self.nyquist[:, None]], dim=1)

    def times(self, mask: Tensor, *, nyquist: bool) -> "_Piece":
        """Multiplied by a mask `[channel, bin, frame]`, whose last bin is the Nyquist bin's where it has one."""
        if not nyquist:
            return replace(self, spectrum=self.spectrum * mask)
        return replace(self, spectrum=self.spectrum * mask[:, :-1], nyquist=self.nyquist * mask[:, -1])

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
def _mask(pieces: Iterator[_Piece], model: Model, windows: WindowSpec) -> Iterator[_Piece]:
    """The same frames multiplied by the model's masks, cross-faded where windows overlap."""
    held: _Piece | None = None
    first = start = 0  # frame of the song at which `held` begins; at which the next window begins
    weighted = torch.empty(0)
    weight = torch.empty(0)
    nyquist = model.front.nyquist
    for piece in pieces:
        empty = torch.zeros_like((piece.with_nyquist() if nyquist else piece.spectrum).real)
        if held is None:
            held, weighted, weight = piece, empty, empty[0, 0].clone()
        else:
            held = held.followed_by(piece)
            weighted, weight = torch.cat([weighted, empty], dim=-1), torch.cat([weight, empty[0, 0]])
        end = first + held.frames
        starts = list(range(start, end - windows.frames + 1, windows.step))
        start += len(starts) * windows.step
        if held.samples is not None and (not starts or starts[-1] + windows.frames < end):
            # The last window moves back to end with the song; a song shorter than a window is one short window.
            starts.append(max(end - windows.frames, 0))
        length = min(windows.frames, end)
        fade = _fade(length, weighted.device)
        for i in range(0, len(starts), windows.batch):
            group = [s - first for s in starts[i : i + windows.batch]]
            spectrum = held.with_nyquist() if nyquist else held.spectrum
            heard = torch.stack([spectrum[..., s : s + length] for s in group])
            magnitude = heard.abs()
            masks = instrumental_mask(model.head, model(heard if model.front.phase else magnitude), magnitude)
            if masks.is_complex() and not weighted.is_complex():
                weighted = weighted.to(masks.dtype)
            for s, mask in zip(group, masks, strict=True):
                weighted[..., s : s + length] += mask * fade
                weight[s : s + length] += fade
        # No later window begins before the last one done, not even the one that moves back.
        final = held.frames if held.samples is not None else max(start - windows.step, 0) - first
        if final > 0:
            mask = weighted[..., :final] / weight[:final]
            yield held.cut(0, final).times(mask, nyquist=nyquist)
            held, weighted, weight = held.cut(final), weighted[..., final:], weight[final:]
            first += final


def _fade(frames: int, device: torch.device) -> Tensor:
    """Weight `[frame]` of a window's masks: a Hann window without its zeros, so that the song's ends count too."""
    return torch.sin(math.pi * (torch.arange(frames, device=device, dtype=torch.float32) + 0.5) / frames) ** 2


@torch.inference_mode()
def _synthesise(pieces: Iterator[_Piece], spec: StftSpec) -> Iterator[Tensor]:
    """Samples `[channel, sample]` of consecutive frames; a sample comes once all frames over it are there."""
    margin = _margin(spec)
    held: _Piece | None = None
    first = skip = 0  # frame of the song at which `held` begins; hops of its signal that have been given out
    for piece in pieces:
        held = piece if held is None else held.followed_by(piece)
        if held.samples is not None:
            yield istft(held.spectrum, held.samples - first * spec.hop, spec, held.nyquist)[:, skip * spec.hop :]
            return
        ready = held.frames - 1 - margin
        if ready > max(skip, margin):
            # One hop short of all frames: `istft` takes a length for which padding gives exactly these frames.
            signal = istft(held.spectrum, (held.frames - 2) * spec.hop, spec, held.nyquist)
            yield signal[:, skip * spec.hop : ready * spec.hop]
            first, held, skip = first + ready - margin, held.cut(ready - margin), margin
