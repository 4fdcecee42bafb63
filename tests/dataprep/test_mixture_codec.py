"""Mixtures with phase, where that is asked for; without, a data set is what it was."""

import json
import os

import pytest

from dataprep.errors import PrepareError
from dataprep.preparing.change import settings_of
from dataprep.preparing.prepare import prepare
from dataprep.preparing.survey import survey
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import read_manifest
from tests.dataprep.data import SETTINGS, STFT, mixture_only, small_data_set, sound
from tests.dataprep.heard import decoded, snr_db, without_nyquist
from vr_core.config import digest, plain


@pytest.mark.parametrize(("codec", "at_least_db"), [("polar8", 36), ("complex16", 60)])
def test_mixtures_can_be_stored_with_phase(tmp_path, codec, at_least_db):
    settings = SETTINGS.model_copy(update={"mixture_codec": codec})
    tracks, report = small_data_set(tmp_path, settings=settings)
    data = Dataset.open(tmp_path / "data")
    assert data.manifest == report.manifest
    assert {row.codec for row in data.manifest.shards.values()} == {"polar8", codec}
    originals = {"a": sound(40_000, 0) + sound(40_000, 1000), "m1": sound(30_000, 50)}
    for song, original in originals.items():
        assert snr_db(without_nyquist(original), decoded(data, song, "mixture")) > at_least_db
    assert settings_of(data.manifest).song_settings() == settings.song_settings()
    assert prepare(tracks, tmp_path / "data", settings).prepared == ()
    with pytest.raises(PrepareError, match=f"magnitude8 here.; add --mixture-codec {codec} to prepare as it was"):
        prepare(tracks, tmp_path / "data", SETTINGS)


def test_a_data_set_of_mixtures_without_phase_is_what_it_was(small, tmp_path):
    """Digest, stamps and the file: what was written before knows nothing of a codec of mixtures."""
    manifest = read_manifest(small / "data")
    assert "mixture_codec" not in json.loads((small / "data" / "manifest.json").read_text())
    assert "mixture_codec" not in json.loads((small / "data" / "manifest.second.json").read_text())
    songs = [
        [s.id, s.split, s.samples, {r: [t.content_sha256, t.frames, *([] if t.audible is None else [t.audible])]
                                    for r, t in s.stems.items()}]
        for s in manifest.songs
    ]  # fmt: skip
    assert manifest.digest() == digest([1, plain(manifest.stft), "polar8", songs])
    assert manifest.model_copy(update={"mixture_codec": "polar8"}).digest() != manifest.digest()
    track = mixture_only(tmp_path, "m1", 3_000, 50)
    path = track.stems["mixture"][0].path
    os.utime(path, ns=(1, 1))
    seen = survey([track], SETTINGS.song_settings())[0]["m1"]
    how = {"mixture": True, "max_song_s": 86_400.0, "stft": plain(STFT), "codec": "polar8"}
    files = [["mixture", str(path.resolve()), 0, path.stat().st_size, 1]]
    assert seen.stamp == digest([files, how, ["mixture"]], 16)
    with_phase = SETTINGS.song_settings().model_copy(update={"mixture_codec": "polar8"})
    assert survey([track], with_phase)[0]["m1"].stamp != seen.stamp
