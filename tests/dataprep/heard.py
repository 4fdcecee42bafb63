"""What is stored, as sound again, beside what was heard."""

import numpy as np
import torch

from dataprep.roles import Role
from dataprep.shards.codecs import CODECS
from dataprep.shards.dataset import Dataset
from tests.dataprep.data import STFT, whole_stem
from vr_core.audio.spectrogram import istft, stft


def decoded(data: Dataset, song: str, role: Role) -> np.ndarray:
    """`[2, sample]` of a stored stem."""
    row = data.song(song)
    codec = CODECS[data.manifest.codec_of(role)]
    scale = torch.from_numpy(data.peaks(song, role, 0, row.frames))[None]
    return istft(codec.widen(whole_stem(data, song, role), scale)[0], row.samples, STFT).numpy()


def snr_db(signal: np.ndarray, estimate: np.ndarray) -> float:
    return float(10 * np.log10(np.square(signal).sum() / np.square(signal - estimate).sum()))


def without_nyquist(signal: np.ndarray) -> np.ndarray:
    result: np.ndarray = istft(stft(torch.from_numpy(signal), STFT)[0], signal.shape[1], STFT).numpy()
    return result
