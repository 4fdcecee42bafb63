"""Rules on rows for songs that hold the same audio."""

import pytest

from dataprep.preparing.duplicates import in_the_same_order, keep_duplicates_together
from dataprep.roles import Split
from dataprep.shards.manifest import Follows, SongRow, StemRow


def row(id: str, split: Split, audible: tuple[tuple[int, int], ...] | None = None, **content: str) -> SongRow:
    """A song whose stems hold the named content; content that begins with "silent" is silent."""
    stems = {
        role: StemRow(
            shard=f"{role}.arrow", first_batch=0, first_row=0, frames=9, peaks=(1.0,), crcs=(1,), content_sha256=sha256,
            loudness_db=-100.0 if sha256.startswith("silent") else -20.0, audible=audible if role == "vocals" else None,
        )
        for role, sha256 in content.items()
    }  # fmt: skip
    return SongRow(id=id, split=split, samples=9, frames=9, stems=stems, sources={}, stamp="", notes=())


@pytest.mark.parametrize("content", ["same", "other"])
def test_what_was_audible_stays_where_the_vocals_are_the_same(content):
    new, old = row("a", "train", ((1, 5),), vocals="same"), row("a", "train", ((2, 4),), vocals=content)
    assert in_the_same_order(new, old).stems["vocals"].audible == (((2, 4),) if content == "same" else ((1, 5),))
    assert in_the_same_order(new, None) == new


def test_sharing_goes_on_over_audio_and_recordings():
    songs = [
        row("a", "train", vocals="1", instrumental="2"),
        row("b", "valid", vocals="3", instrumental="4"),
        row("c", "test", vocals="1", instrumental="4"),
        row("d", "test", mixture="5"),
        row("e", "valid", mixture="6"),
    ]
    found = keep_duplicates_together(songs, [("b", "d")])
    assert [song.split for song in found] == ["train", "train", "train", "train", "valid"]
    audio, recording = Follows(song="a", shares="audio"), Follows(song="a", shares="recording")
    assert [song.follows for song in found] == [None, audio, audio, recording, None]


def test_silence_brings_no_songs_together():
    songs = [row("a", "train", vocals="silent", instrumental="1"), row("b", "test", vocals="silent", instrumental="2")]
    assert keep_duplicates_together(songs) == songs


def test_a_song_whose_like_is_gone_follows_nobody():
    left = row("b", "train", vocals="1").model_copy(update={"follows": Follows(song="a", shares="audio")})
    assert [song.follows for song in keep_duplicates_together([left], [])] == [None]


def test_copies_follow_a_song_that_was_there_before():
    z, y = row("z", "test", vocals="1"), row("y", "valid", vocals="2").model_copy(update={"follows": Follows(song="z",
               shares="recording")})  # fmt: skip
    new = [row("a", "train", vocals="1"), row("b", "train", vocals="2")]
    before = {"y": y, "z": z}
    found = keep_duplicates_together([*new, y, z], [("a", "b")], before)
    assert {song.id: (song.split, song.follows) for song in found} == {
        "a": ("test", Follows(song="z", shares="audio")), "b": ("test", Follows(song="z", shares="recording")),
        "y": ("test", Follows(song="z", shares="audio")), "z": ("test", None),
    }  # fmt: skip
    again = {song.id: song for song in found}
    assert keep_duplicates_together(found, [("a", "b")], again) == found, "nothing new changes nothing"
    assert {song.split for song in keep_duplicates_together([*new, y, z], [("a", "b")])} == {"train"}
