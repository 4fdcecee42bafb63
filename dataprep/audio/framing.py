"""The spectrogram of a signal that comes in blocks: the frames of `vr_core.audio.spectrogram.stft` for all of it."""

from collections.abc import Iterator

import numpy as np
import torch

from vr_core.audio.spectrogram import stft
from vr_core.specs.stft import StftSpec


class SpectrogramStream:
    """Takes blocks of samples and gives spectrograms of whole record batches of frames.

    Each piece is transformed together with so many samples before and after it that its own frames do not reach the
    piece's padding; only the first and the last frames of the signal see the padding they should see.
    """

    def __init__(self, spec: StftSpec, batch_frames: int) -> None:
        """Frames of `spec`, `batch_frames` at a time."""
        self._spec = spec
        self._batch = batch_frames
        self._margin = -(-spec.n_fft // 2 // spec.hop)  # frames on either side that share samples with a frame
        self._held: list[np.ndarray] = []
        self._begin = 0  # sample at which what is held begins, a multiple of the hop
        self._done = 0  # frames given out
        self.samples = 0

    def push(self, block: np.ndarray) -> Iterator[np.ndarray]:
        """Spectrograms `[channel, bin, batch_frames]` complex64 that samples `[channel, sample]` float32 complete."""
        self._held.append(block)
        self.samples += block.shape[1]
        while self.samples >= (needed := (self._done + self._batch - 1 + self._margin) * self._spec.hop):
            held = self._joined()
            yield self._frames(held[:, : needed - self._begin], self._batch)
            self._done += self._batch
            begin = max(0, self._done - self._margin) * self._spec.hop
            self._held = [held[:, begin - self._begin :]]
            self._begin = begin

    def finish(self) -> Iterator[np.ndarray]:
        """What is left, `[channel, bin, frame]` with at most `batch_frames` frames each."""
        left = self._spec.frames(self.samples) - self._done
        rest = self._frames(self._joined(), left)
        for start in range(0, left, self._batch):
            yield rest[:, :, start : start + self._batch]

    def _joined(self) -> np.ndarray:
        return self._held[0] if len(self._held) == 1 else np.concatenate(self._held, axis=1)

    def _frames(self, held: np.ndarray, count: int) -> np.ndarray:
        first = self._done - self._begin // self._spec.hop
        bins, _ = stft(torch.from_numpy(np.ascontiguousarray(held)), self._spec)
        result: np.ndarray = bins[:, :, first : first + count].numpy()
        return result
