"""Whatever the audio is: what training reads is what the files hold, as exact as the codec promises."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataprep.audio.decoders import AudioSource
from dataprep.audio.tracks import Track
from dataprep.errors import PrepareError
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.preparing.song import SILENT_DB, open_stems
from dataprep.roles import Role
from dataprep.shards.codecs import CODECS
from dataprep.shards.dataset import Dataset
from tests.dataprep.data import whole_stem
from vr_core.audio.spectrogram import istft, stft
from vr_core.specs.stft import StftSpec

LEAST_DB = {"polar8": 30.0, "complex16": 55.0}
"""A tone of a few frames is one magnitude: half a step of 110 dB / 255 and half a step of phase are 31 dB. Music, in
which many are rounded, gets 38 and 60 dB and more (`python -m tests.bench codec`)."""


class Signal(NamedTuple):
    """What a stem's file holds."""

    kind: str
    seed: int
    level_db: float
    samples: int
    channels: int
    silent: float
    """Part of it that is silent, from the start."""

    def __call__(self) -> np.ndarray:
        """`[sample, channel]`."""
        rng = np.random.default_rng(self.seed)
        shape = self.samples, self.channels
        if self.kind == "noise":
            signal = rng.standard_normal(shape) / 4
        elif self.kind == "tone":
            at = np.arange(self.samples)[:, None]
            signal = np.sin(at * rng.uniform(0.01, 2.5, self.channels) + rng.uniform(0, 6, self.channels))
        else:
            signal = np.zeros(shape)
            if self.kind == "impulse":
                signal[rng.integers(0, self.samples)] = 1
        signal[: int(self.silent * self.samples)] = 0
        return np.clip(10 ** (self.level_db / 20) * signal, -1, 1)


@st.composite
def songs(draw: st.DrawFn) -> tuple[dict[Role, Signal], int, str]:
    """Stems, their rate and file format."""
    rate = draw(st.sampled_from([8000, 11_025, 16_000, 22_050, 48_000]))
    samples = draw(st.one_of(st.integers(1, 700), st.integers(1, 30_000)))
    roles: list[Role] = draw(st.sampled_from([["vocals", "instrumental"], ["mixture"], ["vocals"], ["instrumental"]]))
    stems = {
        role: Signal(
            draw(st.sampled_from(["noise", "tone", "impulse", "silence"])), draw(st.integers(0, 999)),
            draw(st.sampled_from([-50.0, -20.0, -6.0])), max(1, samples - draw(st.integers(0, rate // 12))),
            draw(st.integers(1, 2)), draw(st.sampled_from([0.0, 0.3, 0.9])),
        )
        for role in roles
    }  # fmt: skip
    return stems, rate, draw(st.sampled_from(["WAV/FLOAT", "WAV/PCM_16", "FLAC/PCM_24", "AIFF/PCM_24"]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    songs(), st.sampled_from(["polar8", "complex16"]), st.sampled_from([(256, 128), (256, 64), (64, 32)]), st.booleans()
)
def test_what_is_read_is_what_the_files_hold(song, codec, frame, mixture):
    stems, rate, kind = song
    file_format, subtype = kind.split("/")
    spec = StftSpec(sample_rate_hz=16_000, n_fft=frame[0], hop=frame[1])
    with TemporaryDirectory() as scratch:
        sources = {}
        for role, signal in stems.items():
            path = Path(scratch, f"{role}.{file_format.lower()}")
            soundfile.write(path, signal(), rate, format=file_format, subtype=subtype)
            sources[role] = (AudioSource(path),)
        track = Track("s", sources)
        given_ = list(open_stems(track, spec.sample_rate_hz))
        chosen = PrepareSettings(stft=spec, codec=codec, mixture=mixture, workers=1)
        if not given_:  # shorter than a sample at the data set's rate
            with pytest.raises(PrepareError, match="none of the 1 songs could be used"):
                prepare([track], Path(scratch, "data"), chosen)
            return
        whole = {role: np.concatenate([block[role] for block in given_], axis=1) for role in given_[0]}
        stored_roles = set(stems) | ({"mixture"} if mixture and len(stems) > 1 else set())
        if all(10 * np.log10(np.square(whole[role]).mean() + 1e-20) < SILENT_DB for role in stored_roles):
            with pytest.raises(PrepareError, match="silent"):
                prepare([track], Path(scratch, "data"), chosen)
            return
        prepare([track], Path(scratch, "data"), chosen)
        data = Dataset.open(Path(scratch, "data"))
        row = data.song("s")
        assert set(row.stems) == stored_roles
        for role, stem in row.stems.items():
            source = torch.from_numpy(whole[role])
            assert row.samples == source.shape[1]
            wanted, _ = stft(source, spec)
            stored = CODECS[data.manifest.codec_of(role)]
            scale = torch.from_numpy(data.peaks("s", role, 0, stem.frames))[None]
            if role == "mixture":
                found = stored.widen_magnitude(whole_stem(data, "s", role), scale)[0]
                assert_close(found, wanted.abs(), LEAST_DB["polar8"])
                continue
            found = stored.widen(whole_stem(data, "s", role), scale)[0]
            assert_close(found, wanted, LEAST_DB[codec])
            # The signal without its Nyquist bin, which is not stored.
            assert_close(istft(found, row.samples, spec), istft(wanted, row.samples, spec), LEAST_DB[codec] - 6)


def assert_close(found: torch.Tensor, wanted: torch.Tensor, least_db: float) -> None:
    """Of the same shape, and signal over error is so much."""
    assert found.shape == wanted.shape
    power, wrong = wanted.abs().double().square().sum(), (found - wanted).abs().double().square().sum()
    assert wrong <= power * 10 ** (-least_db / 10) + 1e-20
