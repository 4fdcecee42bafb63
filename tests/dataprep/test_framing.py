import collections
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataprep.audio.framing import SpectrogramStream
from vr_core.audio.spectrogram import stft
from vr_core.specs.stft import StftSpec

SPECS = [
    StftSpec(n_fft=64, hop=32),
    StftSpec(n_fft=64, hop=16),
    StftSpec(n_fft=128, hop=24),
    StftSpec(n_fft=512, hop=16),
]


def streamed(signal: np.ndarray, spec: StftSpec, cuts: list[int], batch: int) -> list[np.ndarray]:
    stream = SpectrogramStream(spec, batch)
    pieces: list[np.ndarray] = []
    for block in np.split(signal, sorted(cuts), axis=1):
        pieces += stream.push(block)
    return pieces + list(stream.finish())


@given(st.data())
def test_frames_equal_those_of_the_whole_signal(data):
    spec = data.draw(st.sampled_from(SPECS))
    samples = data.draw(st.one_of(st.integers(1, 200), st.integers(1, 6000)))
    cuts = data.draw(st.lists(st.integers(0, samples), max_size=6))
    batch = data.draw(st.integers(1, 40))
    signal = np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)
    pieces = streamed(signal, spec, cuts, batch)
    assert all(piece.shape[2] == batch for piece in pieces[:-1])
    assert 0 < pieces[-1].shape[2] <= batch
    whole, _ = stft(torch.from_numpy(signal), spec)
    np.testing.assert_allclose(np.concatenate(pieces, axis=2), whole.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("remainder", [0, 1, 512, 1016, 1023])
def test_the_default_settings_over_several_record_batches(remainder):
    spec, samples = StftSpec(), 40 * 1024 + remainder
    signal = np.random.default_rng(0).standard_normal((2, samples)).astype(np.float32)
    pieces = streamed(signal, spec, list(range(0, samples, 5000)), 16)
    whole, _ = stft(torch.from_numpy(signal), spec)
    np.testing.assert_allclose(np.concatenate(pieces, axis=2), whole.numpy(), rtol=0, atol=1e-5)


def test_what_is_held_does_not_grow_with_the_signal():
    stream, block, held_bytes = SpectrogramStream(StftSpec(), 16), np.zeros((2, 50_000), np.float32), []
    tracemalloc.start()
    try:
        for _ in range(20):
            collections.deque(stream.push(block.copy()), maxlen=0)
            held_bytes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(held_bytes) < 3 * block.nbytes, "of 20"
