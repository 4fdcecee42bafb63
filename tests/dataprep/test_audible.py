"""Where something is heard, by a search of all frames."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataprep.audio.voice_activity import audible_runs
from dataprep.preparing.prepare import PrepareSettings, prepare
from dataprep.shards.manifest import read_manifest
from tests.dataprep.data import STFT, labelled, sound, write


def naive(levels, frame_s):
    """Runs of loud frames, those less than half a second apart joined, then short ones left out."""
    loud = [level > max(levels) * 10**-4.5 for level in levels]
    runs = []
    for frame, is_loud in enumerate(loud):
        if not is_loud:
            continue
        if runs and (frame - runs[-1][1]) * frame_s < 0.5:
            runs[-1][1] = frame + 1
        else:
            runs.append([frame, frame + 1])
    return tuple((a, b) for a, b in runs if (b - a) * frame_s >= 0.2)


@given(st.lists(st.sampled_from([0.0, 1e-9, 1e-3, 1.0]), max_size=60))
def test_runs_are_those_that_a_look_at_every_frame_finds(levels):
    assert audible_runs(np.array(levels), 0.1) == (naive(levels, 0.1) if levels else ())


def test_preparation_notes_where_the_voice_is(tmp_path):
    """Two seconds of voice between silence, in a song of eight."""
    track = labelled(tmp_path, "song", 64_000, 1)
    voice = np.zeros((2, 64_000), np.float32)
    voice[:, 24_000:40_000] = sound(16_000, 5)
    write(tmp_path / "song" / "vocals.wav", voice)
    prepare([track], tmp_path / "data", PrepareSettings(stft=STFT, workers=1))
    stems = read_manifest(tmp_path / "data").songs[0].stems
    (run,) = stems["vocals"].audible
    assert abs(run[0] - 24_000 / STFT.hop) <= 2
    assert abs(run[1] - 40_000 / STFT.hop) <= 2
    assert stems["instrumental"].audible is stems["mixture"].audible is None
