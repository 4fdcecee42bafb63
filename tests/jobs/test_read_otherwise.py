"""`vr data prepare` names the songs that it prepares again because their files are read otherwise now."""

import json
import struct

import soundfile

from dataprep.preparing.change import settings_of
from dataprep.preparing.survey import survey
from dataprep.shards.manifest import read_manifest, replace_manifest
from tests.jobs.music import RATE_HZ, noise, prepared, song, vr_data


def test_the_command_says_what_is_read_otherwise_and_why(tmp_path):
    music, out = tmp_path / "music", tmp_path / "data"
    soundfile.write(song(music / "a").parent / "short.wav", noise(1.0, 7), RATE_HZ, subtype="FLOAT")
    data = (music / "short.wav").read_bytes()
    at = data.index(b"data") + 4
    (music / "short.wav").write_bytes(data[:at] + struct.pack("<I", 80_000) + data[at + 4 :])
    sources = (music / "a", music / "short.wav")
    first = prepared(out, *sources)
    assert first["read_otherwise"] == {}
    manifest = read_manifest(out)
    settings = settings_of(manifest).song_settings()
    seen, _ = survey([row.track() for row in manifest.songs], settings)
    once = [row.model_copy(update={"stamp": seen[row.id].stamp_once}) for row in manifest.songs]
    assert [row.stamp == old.stamp for row, old in zip(manifest.songs, once, strict=True)] == [True, False]
    replace_manifest(out, manifest.model_copy(update={"songs": tuple(once)}))
    result = vr_data("prepare", *sources, "--out", out, "--n-fft", "256", "--hop", "128", "--json")
    found = json.loads(result.stdout)
    short = manifest.songs[1].id
    assert (found["prepared"], found["read_otherwise"]) == ([short], {short: ["behind-header"]})
    why = "what goes on behind the length in its header is read whole now"
    assert f"prepared again: {short}: {why}" in result.stderr
