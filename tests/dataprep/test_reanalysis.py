"""Any STFT from one data set: what was stored at 2,048/1,024, seen by another STFT, beside that of the original."""

import numpy as np
import pytest
import torch

from dataprep.shards.codecs import CODECS
from dataprep.synth.songs import make_song
from vr_core.audio.sound import Sound
from vr_core.audio.spectrogram import stft
from vr_core.specs.stft import StftSpec

STORED = StftSpec()
FIRST, FRAMES = 10, 100


@pytest.mark.parametrize(
    "other", [StftSpec(hop=441), StftSpec(n_fft=4096, hop=1024)], ids=lambda s: f"{s.n_fft}-{s.hop}"
)
@pytest.mark.parametrize(("codec", "least_db"), [("polar8", 36.0), ("complex16", 74.0)])
def test_another_stft_of_stored_frames_is_that_of_the_original(codec, least_db, other):
    vocals, instrumental = make_song(3, 0, 4.0)
    song = torch.from_numpy(vocals + instrumental).double()
    frames = stft(song.float(), STORED)[0][..., FIRST : FIRST + FRAMES].numpy()
    columns, peak = CODECS[codec].encode(frames)
    stored = {name: torch.from_numpy(column)[None] for name, column in columns.items()}
    spectrum = CODECS[codec].widen(stored, torch.full((1, FRAMES), peak))
    found = Sound(STORED, spectrum.abs(), spectrum).at(other).phased()[0].numpy()
    part = song[:, FIRST * STORED.hop : (FIRST + FRAMES - 1) * STORED.hop]
    window = torch.hann_window(other.n_fft, dtype=torch.float64)
    wanted = torch.stft(part, other.n_fft, other.hop, window=window, center=False, return_complex=True)
    wanted = wanted[:, : other.bins].numpy() * 4 / other.n_fft
    assert found.shape == wanted.shape
    # The Nyquist bin is not stored. Of these songs, whose drums reach up to it, it leaves -59 dB there.
    below = round(0.99 * other.bins)
    found, wanted = found[:, :below], wanted[:, :below]
    off_db = 10 * np.log10(np.square(np.abs(wanted)).sum() / np.square(np.abs(found - wanted)).sum())
    print(f"{codec} at {other.n_fft}/{other.hop}: {off_db:.1f} dB")
    assert off_db >= least_db
    # Nothing is worse at the ends.
    ends = [0, 1, -2, -1]
    ends_db = 10 * np.log10(
        np.square(np.abs(wanted[..., ends])).sum() / np.square(np.abs(found - wanted)[..., ends]).sum()
    )
    assert ends_db >= least_db - 4
