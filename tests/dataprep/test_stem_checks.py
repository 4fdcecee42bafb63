from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dataprep.audio.files import BLOCK_SAMPLES, open_audio
from dataprep.audio.tracks import Track
from dataprep.errors import PrepareError, SongError
from dataprep.preparing import song as song_module
from dataprep.preparing.change import examine, repair, settings_of
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.preparing.song import open_stems
from dataprep.preparing.stem_checks import Correlation, clipped_samples, find_offset
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import read_manifest
from tests.dataprep.data import SETTINGS, small_data_set, sound, whole_stem, write

KEEPS = SETTINGS.model_copy(update={"keep_suspicious": True})


def notes_of(tmp_path: Path, settings: PrepareSettings = SETTINGS, **stems: np.ndarray) -> tuple[str, ...]:
    track = Track("s", {role: (write(tmp_path / f"{role}.wav", signal),) for role, signal in stems.items()})
    (song,) = prepare([track], tmp_path / "data", settings).manifest.songs
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


def test_files_of_two_songs_are_left_out_unless_they_are_asked_for(tmp_path):
    with pytest.raises(PrepareError, match=r"files of two songs, .*; left out, --keep-suspicious takes it"):
        notes_of(tmp_path, mixture=VOICE + BAND, instrumental=OTHER)
    notes = notes_of(tmp_path, settings=KEEPS, mixture=VOICE + BAND, instrumental=OTHER)
    assert any("files of two songs" in note for note in notes), notes
    assert not any("one holds some" in note for note in notes)


@pytest.mark.parametrize("foreign", ["vocals", "instrumental"])
def test_a_stem_of_another_song_beside_its_mixture_is_told_which_one(tmp_path, foreign):
    given_ = {"mixture": VOICE + BAND, "vocals": VOICE, "instrumental": BAND, foreign: OTHER}
    with pytest.raises(PrepareError, match=f"mixture and {foreign} correlate by .* files of two songs"):
        notes_of(tmp_path, **given_)


def test_a_soft_stem_is_noted_and_not_left_out(tmp_path):
    """20 dB below its mixture it hardly correlates, of whatever song it is."""
    notes = notes_of(tmp_path, mixture=VOICE + BAND, vocals=0.1 * OTHER)
    assert any("files of two songs" in note for note in notes)


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


@given(st.integers(-800, 800), st.integers(0, 2**32 - 1))
def test_an_offset_is_found_to_the_sample(late, seed):
    rng = np.random.default_rng(seed)
    band, voice = (sound(30_000, int(rng.integers(1, 10_000))) for _ in range(2))
    mixture = band + 0.7 * voice
    assert find_offset(mixture, moved(band, late), 800) == late


def moved(signal: np.ndarray, late: int) -> np.ndarray:
    """As long as before."""
    result = np.roll(signal, late, axis=1)
    if late > 0:
        result[:, :late] = 0
    elif late < 0:
        result[:, late:] = 0
    return result


@pytest.mark.parametrize("late", [0, 7, -7, 512, -700])
@pytest.mark.parametrize("stem", ["vocals", "instrumental"])
def test_a_stem_that_lies_beside_its_mixture_is_told_or_moved(tmp_path, late, stem):
    stems = {"vocals": VOICE, "instrumental": BAND}
    given_ = {"mixture": VOICE + BAND, stem: moved(stems[stem], late)}
    notes = notes_of(tmp_path / "told", **given_)
    offset = [note for note in notes if "--align moves it" in note]
    side = "after" if late > 0 else "before"
    assert [note.split(";")[0] for note in offset] == (
        [f"{stem} lies {abs(late)} samples ({abs(late) / 8:.1f} ms) {side} the mixture"] if late else []
    )
    align = SETTINGS.model_copy(update={"align": True})
    sources = {role: (write(tmp_path / f"{role}.wav", signal),) for role, signal in given_.items()}
    report = prepare([Track("s", sources)], tmp_path / "moved", align)
    data = Dataset.open(tmp_path / "moved")
    assert any("moved, it lay" in note for note in report.manifest.songs[0].notes) is bool(late)
    assert not any("files differ" in note for note in report.manifest.songs[0].notes), "they are equally long"
    assert settings_of(report.manifest).align, "also where nothing lay beside"
    # What is stored is as if the files had lain right, but for what the move brought in at one end.
    right = {"mixture": VOICE + BAND, stem: moved(moved(stems[stem], late), -late)}
    sources = {role: (write(tmp_path / "right" / f"{role}.wav", signal),) for role, signal in right.items()}
    prepare([Track("s", sources)], tmp_path / "plain", SETTINGS)
    wanted = Dataset.open(tmp_path / "plain")
    for role in ("vocals", "instrumental"):
        for name, column in whole_stem(wanted, "s", role).items():
            assert torch.equal(whole_stem(data, "s", role)[name][:, 10:290], column[:, 10:290]), (role, name)


@pytest.mark.parametrize("late", [640, -640])
@pytest.mark.parametrize("longer", [0, 400, -400])
@pytest.mark.parametrize("block_samples", [BLOCK_SAMPLES, 16_000])
def test_lengths_are_compared_as_the_files_have_them_and_not_as_they_are_moved(
    tmp_path, monkeypatch, late, longer, block_samples
):
    """0.05 s is within the tolerance, also where a stem is moved by 0.08 s and another one the other way."""
    monkeypatch.setattr(song_module, "BLOCK_SAMPLES", block_samples)
    monkeypatch.setattr(
        song_module, "open_audio", lambda source, rate, **how: open_audio(source, rate, block_samples, **how)
    )
    signals = {"vocals": moved(VOICE, late), "instrumental": moved(BAND, -late), "mixture": VOICE + BAND}
    signals["vocals"] = np.pad(signals["vocals"], ((0, 0), (0, 400)))[:, : 40_000 + longer]
    sources = {role: (write(tmp_path / f"{role}.wav", signal),) for role, signal in signals.items()}
    report = prepare([Track("s", sources)], tmp_path / "data", SETTINGS.model_copy(update={"align": True}))
    (song,) = report.manifest.songs
    assert [note.split(",")[0] for note in song.notes if "moved" in note] == ["vocals moved", "instrumental moved"]
    assert [note for note in song.notes if "files differ" in note] == (
        ["files differ by 400 samples (0.050 s); padded to the longest"] if longer else []
    )
    assert song.samples == max(40_000, 40_000 + longer - late, 40_000 + late)
    assert prepare([Track("s", sources)], tmp_path / "data", SETTINGS.model_copy(update={"align": True})).kept == ("s",)


@pytest.mark.parametrize("samples", [9_000, 80_000])
@pytest.mark.parametrize("short", ["vocals", "instrumental"])
def test_stems_may_end_up_to_a_second_apart(tmp_path, samples, short):
    def track(shorter: int) -> Track:
        lengths = {"vocals": samples, "instrumental": samples} | {short: samples - shorter}
        return Track("s", {role: (write(tmp_path / f"{role}.wav", sound(n, 1)),) for role, n in lengths.items()})

    assert sum(blocks["mixture"].shape[1] for blocks in open_stems(track(8_000), 8000)) == samples
    (song,) = prepare([track(8_000)], tmp_path / "data", SETTINGS).manifest.songs
    assert "files differ by 8000 samples (1.000 s); padded to the longest" in song.notes
    with pytest.raises(SongError, match=rf"{short}\.wav ends at"):
        list(open_stems(track(8_001), 8000))


def test_taking_what_is_suspicious_prepares_nothing_again(tmp_path):
    track = Track(
        "s", {"mixture": (write(tmp_path / "m.wav", VOICE + BAND),), "vocals": (write(tmp_path / "v.wav", VOICE),)}
    )
    prepare([track], tmp_path / "data", SETTINGS)
    assert prepare([track], tmp_path / "data", KEEPS).kept == ("s",)


def test_a_song_that_was_taken_all_the_same_is_repaired(tmp_path):
    sources = {
        "mixture": (write(tmp_path / "m.wav", VOICE + BAND),),
        "instrumental": (write(tmp_path / "i.wav", OTHER),),
    }
    manifest = prepare([Track("s", sources)], tmp_path / "data", KEEPS).manifest
    (tmp_path / "data" / min(manifest.shards)).unlink()
    damaged = examine(tmp_path / "data", manifest)
    assert repair(tmp_path / "data", damaged).failed == ()
    repaired = read_manifest(tmp_path / "data")
    assert examine(tmp_path / "data", repaired) == []
    assert not settings_of(repaired).keep_suspicious
