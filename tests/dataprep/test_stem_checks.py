from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep.prepare import prepare
from dataprep.stem_checks import Correlation, clipped_samples
from dataprep.tracks import Track
from tests.dataprep.data import SETTINGS, small_data_set, sound, write


def notes_of(tmp_path: Path, **stems: np.ndarray) -> tuple[str, ...]:
    track = Track("s", {role: (write(tmp_path / f"{role}.wav", signal),) for role, signal in stems.items()})
    (song,) = prepare([track], tmp_path / "data", SETTINGS).manifest.songs
    return song.notes


VOICE, BAND, OTHER = sound(40_000, 1), sound(40_000, 2), sound(40_000, 77)


def test_stems_that_were_recorded_apart_are_not_suspected(tmp_path):
    _, report = small_data_set(tmp_path)
    assert all(
        "correlate" not in note and "clipped" not in note for song in report.manifest.songs for note in song.notes
    )


@pytest.mark.parametrize("gain", [0.4, -0.4])
def test_vocals_in_the_instrumental_are_told(tmp_path, gain):
    (note,) = notes_of(tmp_path, vocals=VOICE, instrumental=BAND + gain * VOICE)
    assert note.endswith("one holds some of the other")


def test_files_of_two_songs_are_told(tmp_path):
    notes = notes_of(tmp_path, mixture=VOICE + BAND, instrumental=OTHER)
    assert any("files of two songs" in note for note in notes), notes
    assert not any("one holds some" in note for note in notes)


@pytest.mark.parametrize("stem", ["vocals", "instrumental"])
def test_a_stem_of_the_mixture_is_no_other_song(tmp_path, stem):
    level = 0.2 if stem == "vocals" else 1.0
    mixture, given_ = level * VOICE + BAND, {"vocals": level * VOICE, "instrumental": BAND}[stem]
    assert not any("two songs" in note for note in notes_of(tmp_path, mixture=mixture, **{stem: given_}))


def test_clipping_is_told_and_a_peak_at_full_scale_is_not(tmp_path):
    loud = np.clip(8 * VOICE, -1, 1).astype(np.float32)
    (note,) = notes_of(tmp_path, vocals=loud, instrumental=BAND / np.abs(BAND).max())
    assert note.startswith("vocals clipped: ")


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, -1.0]), min_size=9, max_size=9), min_size=1, max_size=2))
def test_runs_at_full_scale_are_counted(rows):
    wanted = 0
    for row in rows:
        run = 0
        for value in [*row, 0.0]:
            if abs(value) == 1:
                run += 1
            else:
                wanted += run if run >= 3 else 0
                run = 0
    assert clipped_samples(np.array(rows, np.float32)) == wanted


def test_correlation_over_blocks_is_that_of_the_whole():
    found = Correlation()
    for start in range(0, 40_000, 777):
        found.add(VOICE[:, start : start + 777], BAND[:, start : start + 777] - 0.3 * VOICE[:, start : start + 777])
    one, other = (x.astype(np.float64).reshape(-1) for x in (VOICE, BAND - 0.3 * VOICE))
    assert found.value == pytest.approx(one @ other / np.sqrt(one @ one * (other @ other)), abs=1e-6)
    assert Correlation().value == 0
