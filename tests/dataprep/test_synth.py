from pathlib import Path

import numpy as np
import pytest
import soundfile

from dataprep.audio.tracks import find_tracks
from dataprep.errors import DataError
from dataprep.synth.songs import make_song, write_songs


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_call_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        assert len(list(write_songs(tmp_path / name, songs=2, seconds=3, seed=5))) == 2
    first = contents(tmp_path / "a")
    assert first == contents(tmp_path / "b")
    list(write_songs(tmp_path / "a", songs=2, seconds=3, seed=5))
    assert first == contents(tmp_path / "a")
    list(write_songs(tmp_path / "c", songs=2, seconds=3, seed=6))
    assert first["song001/vocals.wav"] != contents(tmp_path / "c")["song001/vocals.wav"]
    assert first["song001/vocals.wav"] != first["song002/vocals.wav"]


def test_songs_are_song_folders_in_16_bit_stereo(tmp_path):
    list(write_songs(tmp_path / "songs", songs=2, seconds=2.5))
    found = find_tracks([tmp_path / "songs"])
    assert [(t.id, set(t.stems)) for t in found.tracks] == [
        ("song001", {"vocals", "instrumental"}), ("song002", {"vocals", "instrumental"})
    ]  # fmt: skip
    info = soundfile.info(tmp_path / "songs" / "song002" / "vocals.wav")
    assert (info.samplerate, info.channels, info.frames, info.subtype) == (44_100, 2, 110_250, "PCM_16")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_voice_is_there_to_be_removed(number):
    vocals, instrumental = make_song(0, number, 12.0)
    assert vocals.shape == instrumental.shape == (2, 12 * 44_100)
    assert np.abs(vocals + instrumental).max() <= 0.9001
    level_db = 10 * np.log10((vocals**2).mean() / (instrumental**2).mean())
    assert -4 < level_db < 3
    # Neither a band nor one channel holds either alone: both are strong between 200 Hz and 4 kHz, and stereo.
    hertz = np.fft.rfftfreq(vocals.shape[1], 1 / 44_100)
    middle = (hertz > 200) & (hertz < 4000)
    for stem in (vocals, instrumental):
        power = np.abs(np.fft.rfft(stem)) ** 2
        assert power[:, middle].sum() / power.sum() > 0.1
        assert 0.3 < power[0].sum() / power.sum() < 0.7
        assert not np.array_equal(stem[0], stem[1])
    # The voice pauses and sounds: a separator must tell when.
    loudness = np.sqrt((vocals[:, : 48 * 11_025].reshape(2, -1, 11_025) ** 2).mean(axis=(0, 2)))
    assert loudness.min() < 0.1 * loudness.max()


def test_songs_differ_in_tempo_and_key():
    spectra = []
    for number in range(1, 5):
        power = np.abs(np.fft.rfft(make_song(0, number, 6.0)[1][0])) ** 2
        spectra.append(power[: 6 * 1000] / np.linalg.norm(power[: 6 * 1000]))
    alike = np.array([[a @ b for a in spectra] for b in spectra])
    assert alike[~np.eye(4, dtype=bool)].max() < 0.5


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        next(write_songs(tmp_path))
    assert list(contents(tmp_path)) == ["mine.txt"]
    list(write_songs(tmp_path / "songs", songs=1, seconds=1))
    with pytest.raises(DataError, match="not from the same command"):
        next(write_songs(tmp_path / "songs", songs=2, seconds=1))
    with pytest.raises(DataError, match="expected 1 to 9999 songs"):
        next(write_songs(tmp_path / "none", songs=0))
