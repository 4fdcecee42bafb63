"""What is written: PCM steps, limits of formats, wav files of any length."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dataprep.audio import writing
from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import read_audio
from dataprep.audio.writing import FORMATS, full_scale, require_fits, to_pcm, write_audio
from dataprep.errors import FormatLimitError

LEVELS = arrays.arrays(np.float32, (2, 50), elements=st.floats(-1.5, 1.5, width=32))


@given(block=LEVELS, subtype=st.sampled_from(["PCM_16", "PCM_24"]))
def test_pcm_is_the_nearest_step_and_says_what_it_clips(block, subtype):
    bits = int(subtype[-2:])
    step = 2.0 ** (1 - bits)
    steps, clipped = to_pcm(block, subtype)
    levels = steps.astype(np.float64) / 2.0 ** (15 if bits == 16 else 31)
    fits = (block >= -1 - step / 2) & (block < 1 - step / 2)
    assert np.abs(levels - block)[fits].max(initial=0) <= step / 2
    assert clipped == np.count_nonzero(~fits)
    assert np.abs(levels[~fits]).min(initial=1) >= 1 - step


@pytest.mark.parametrize(("file_format", "subtype"), [("wav", "PCM_16"), ("wav", "PCM_24"), ("flac", "PCM_24")])
def test_what_is_at_full_scale_fits_and_every_step_is_stored(tmp_path, file_format, subtype):
    signal = full_scale(subtype) * np.linspace(-1, 1, 5001, dtype=np.float32)[None].repeat(2, axis=0)
    steps, clipped = to_pcm(signal, subtype)
    assert clipped == 0
    path = tmp_path / f"a.{file_format}"
    write_audio(path, [steps], 44_100, subtype)
    assert np.array_equal(soundfile.read(path, dtype=steps.dtype)[0].T, steps)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("rate_hz", [1000, 655_350, 655_351, 768_000])
def test_the_highest_rate_that_is_promised_is_the_one_that_can_be_written(tmp_path, file_format, rate_hz):
    def written() -> bool:
        try:
            soundfile.write(tmp_path / f"a.{file_format}", np.zeros((9, 2)), rate_hz, FORMATS[file_format].subtypes[0])
        except soundfile.LibsndfileError:
            return False
        return soundfile.info(tmp_path / f"a.{file_format}").samplerate == rate_hz

    if written():
        require_fits(Path("song.mp3"), file_format, rate_hz)
    else:
        with pytest.raises(FormatLimitError, match=r"song\.mp3: has .*write wav"):
            require_fits(Path("song.mp3"), file_format, rate_hz)


@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16", "PCM_24"])
def test_a_wav_longer_than_its_header_can_count_is_rf64(tmp_path, monkeypatch, subtype):
    """The limit is lowered: the real one takes 4 GiB."""
    monkeypatch.setattr(writing, "RIFF_BYTES", 40_000)
    signal = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 20_000)).astype(np.float32)
    frame_bytes = 2 * {"FLOAT": 4, "PCM_16": 2, "PCM_24": 3}[subtype]
    for samples, kind in ((40_000 // frame_bytes, "WAV"), (40_000 // frame_bytes + 1, "RF64"), (20_000, "RF64")):
        cut = signal[:, :samples]
        stored = cut if subtype == "FLOAT" else to_pcm(cut, subtype)[0]
        path = tmp_path / "a.wav"
        assert write_audio(path, [stored[:, :999], stored[:, 999:]], 44_100, subtype) == samples
        assert soundfile.info(path).format == kind
        found = read_audio(AudioSource(path), 44_100)
        assert np.abs(found - cut).max() <= {"FLOAT": 0, "PCM_16": 2.0**-16, "PCM_24": 2.0**-24}[subtype]
        assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_the_real_limit_is_where_a_wav_header_ends():
    assert writing.RIFF_BYTES < 2**32 - 1000
    assert writing.RIFF_BYTES > 2**32 - 2**20
