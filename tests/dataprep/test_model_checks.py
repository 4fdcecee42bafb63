"""A model whose mask is known, over stems of which it is known what is in them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dataprep.audio.tracks import Track
from dataprep.inspecting.model_checks import listen
from dataprep.preparing.prepare import prepare
from dataprep.shards.dataset import Dataset
from tests.dataprep.data import SETTINGS, STFT, write
from tests.masking import Masking

SAMPLES = 40_000


class HighIsInstrumental(Masking):
    """Keeps what lies above 1 kHz, as if all voices were low."""

    def mask(self, magnitude: Tensor) -> Tensor:
        hz = torch.arange(magnitude.shape[2]) * STFT.sample_rate_hz / STFT.n_fft
        return (hz > 1000).float()[None, None, :, None].expand_as(magnitude)


def tone(hz: float) -> np.ndarray:
    return np.tile(0.2 * np.sin(2 * np.pi * hz * np.arange(SAMPLES) / STFT.sample_rate_hz), (2, 1)).astype(np.float32)


@pytest.fixture
def data(tmp_path):
    low, high = tone(437.5), tone(2000.0)
    songs = {
        "clean": (low, high),
        "swapped": (high, low),
        "leaking": (low + 0.5 * high, high),
        "mixture": (low, low + high),
        "silent": (0 * low, high),
    }
    tracks = [
        Track(
            name,
            {
                "vocals": (write(tmp_path / name / "v.wav", vocals),),
                "instrumental": (write(tmp_path / name / "i.wav", instrumental),),
            },
        )
        for name, (vocals, instrumental) in songs.items()
    ]
    prepare(tracks, tmp_path / "data", SETTINGS)
    return Dataset.open(tmp_path / "data")


def test_what_is_foreign_is_its_share_of_the_energy(data):
    done = []
    scores = {
        (score.song, score.role): score
        for score in listen(data, HighIsInstrumental(), 16, torch.device("cpu"), done.append)
    }
    wanted = {"clean": (0, 0), "swapped": (1, 1), "leaking": (0.2, 0), "mixture": (0, 0.5), "silent": (0, 0)}
    for song, (vocals, instrumental) in wanted.items():
        assert scores[song, "vocals"].foreign == pytest.approx(vocals, abs=0.01), song
        assert scores[song, "instrumental"].foreign == pytest.approx(instrumental, abs=0.01), song
    suspicious = {(score.song, score.role) for score in scores.values() if score.is_suspicious}
    both = {("swapped", "vocals"), ("swapped", "instrumental")}
    assert suspicious == both | {("leaking", "vocals"), ("mixture", "instrumental")}
    assert done == sorted(wanted)
