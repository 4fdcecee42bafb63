import json
from pathlib import Path

import pytest

from dataprep.audio.decoders import AudioSource
from dataprep.errors import ManifestError, NoSpaceError
from dataprep.shards.manifest import FILE, SECOND, Manifest, SongRow, StemRow, read_manifest, write_json, write_manifest
from dataprep.shards.writer import ShardRow
from tests.small_disk import small_disk
from vr_core.small_files import read_json
from vr_core.specs.stft import StftSpec


def stem(shard: str, frames: int = 5000) -> StemRow:
    return StemRow(
        shard=shard, first_batch=0, first_row=0, frames=frames, peaks=(0.5, 0.25), loudness_db=-20.0,
        content_sha256="ab",
    )  # fmt: skip


def song(name: str, **changes) -> SongRow:
    facts = {
        "id": name, "split": "train", "samples": 5_000_000, "frames": 5000, "notes": ("short",),
        "stems": {"vocals": stem("v.arrow"), "mixture": stem("m.arrow")},
        "sources": {"vocals": (AudioSource(Path("/m/x.wav")),)},
    }  # fmt: skip
    return SongRow(**{**facts, **changes})


def manifest(*songs: SongRow) -> Manifest:
    shards = {
        "v.arrow": ShardRow(codec="polar8", bytes=10, rows=5000, sha256="00"),
        "m.arrow": ShardRow(codec="magnitude8", bytes=10, rows=5000, sha256="01"),
    }
    return Manifest(stft=StftSpec(), codec="polar8", shards=shards, songs=songs)


def test_what_is_written_is_read_with_songs_sorted(tmp_path):
    write_manifest(tmp_path, manifest(song("b"), song("a", split="test")))
    assert read_manifest(tmp_path) == manifest(song("a", split="test"), song("b"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [FILE, SECOND]


def test_a_folder_without_one_says_what_to_do(tmp_path):
    with pytest.raises(ManifestError, match="is not a data set.*vr data prepare"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda raw: "{", "not JSON"),
        (lambda raw: "[]", "not a JSON object"),
        (lambda raw: "{}", "no schema_version"),
        (lambda raw: raw | {"schema_version": 2}, "schema version 2, this version of vr reads 1"),
        (lambda raw: {k: v for k, v in raw.items() if k != "codec"}, "codec: Field required"),
        (lambda raw: raw | {"codec": "mp3"}, "codec 'mp3' is not known"),
        (lambda raw: raw | {"mixture_codec": "mp3"}, "codec 'mp3' is not known"),
        (lambda raw: raw | {"mixture_codec": "polar8"}, "a mixture: no such shard"),
        (lambda raw: raw | {"colour": 1}, "colour"),
        (lambda raw: raw | {"shards": {}}, "a vocals: no such shard 'v.arrow'"),
        (lambda raw: raw | {"songs": raw["songs"] * 2}, "'a' stands twice"),
        (lambda raw: raw["songs"][0].pop("frames") and raw, r"songs\.0\.frames"),
        (lambda raw: raw["songs"][0]["stems"]["vocals"].update(peaks=[1.0]) or raw, "1 peaks"),
        (lambda raw: raw["songs"][0]["stems"]["mixture"].update(shard="v.arrow") or raw, "a mixture: no such shard"),
        (lambda raw: raw["songs"][0].update(split="dev") or raw, "split"),
    ],
)
def test_damage_is_named_with_a_remedy(tmp_path, change, named):
    write_manifest(tmp_path, manifest(song("a")))
    changed = change(read_json(tmp_path / FILE))
    (tmp_path / FILE).write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(ManifestError, match=named) as caught:
        read_manifest(tmp_path)
    assert any(word in str(caught.value) for word in ("prepare", "update vr", "verify"))


def test_digest_follows_what_training_sees_and_nothing_else():
    base = manifest(song("a"), song("b")).digest()
    moved = {"vocals": stem("m.arrow"), "mixture": stem("m.arrow")}
    assert manifest(song("a", stems=moved, notes=(), sources={}), song("b")).digest() == base
    assert manifest(song("a", split="valid"), song("b")).digest() != base
    assert manifest(song("a")).digest() != base
    assert manifest(song("a", stems={"vocals": stem("v.arrow")}), song("b")).digest() != base


def test_a_failed_write_leaves_the_old_one(tmp_path):
    write_manifest(tmp_path, manifest(song("a")))
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path, tmp_path / FILE, {"x": float("nan")})
    assert (tmp_path / FILE).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [FILE, SECOND]


def test_a_full_disk_is_named(tmp_path):
    with small_disk(tmp_path / "disk", kib=64) as disk:
        disk.fill()
        with pytest.raises(NoSpaceError, match=r"manifest\.json: no space left"):
            write_manifest(disk.path, manifest(song("a")))
        assert disk.names() == []
