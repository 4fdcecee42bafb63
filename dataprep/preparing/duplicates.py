"""Rules for songs that hold the same audio: copies come into one split, and a repair changes no run's items.

They are pure: they make rows of the manifest from rows and fingerprints, and read or write no file.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from dataprep.fingerprints.fingerprint import LEAST_OVERLAP_S, Fingerprint, pairs
from dataprep.preparing.song import SILENT_DB
from dataprep.shards.manifest import Follows, SongRow


def in_the_same_order(song: SongRow, before: SongRow | None) -> SongRow:
    """Keep where vocals are audible as it was known before, so that a repair changes no run's items.

    Args:
        song: the row as it is now.
        before: the row in the manifest that is replaced, if the song was there.

    Returns:
        `song`, with the runs of `before` where the samples of its vocals are the same.
    """
    new, old = (row.stems.get("vocals") if row else None for row in (song, before))
    if new is None or old is None or new.content_sha256 != old.content_sha256 or new.audible == old.audible:
        return song
    vocals = new.model_copy(update={"audible": old.audible})
    return song.model_copy(update={"stems": {**song.stems, "vocals": vocals}})


def renamed(
    songs: Sequence[SongRow], given: Collection[str], are_gone: Callable[[SongRow], bool]
) -> tuple[tuple[str, str], ...]:
    """Songs that hold the audio of another whose files are gone: most likely their files have other names now.

    Args:
        songs: all of the data set, by id.
        given: ids of those that the sources hold.
        are_gone: whether the files of a song are.

    Returns:
        (what it was called, what it is called now), each of the first once.
    """
    by_audio: dict[frozenset[tuple[str, str]], str] = {}
    for song in songs:
        if song.id in given:
            by_audio.setdefault(_audio(song), song.id)
    others = [song for song in songs if song.id not in given and _audio(song) in by_audio]
    return tuple((song.id, by_audio[_audio(song)]) for song in others if are_gone(song))


def _audio(song: SongRow) -> frozenset[tuple[str, str]]:
    return frozenset((role, stem.content_sha256) for role, stem in song.stems.items())


def with_copies_in_one_split(
    songs: Sequence[SongRow], fingerprints: Iterable[Fingerprint], frame_s: float, before: Mapping[str, SongRow]
) -> list[SongRow]:
    """Give songs that share audio, or a recording by their fingerprints, the split of one of them.

    Args:
        songs: by id, each in the split that it would have alone.
        fingerprints: of the songs that have one.
        frame_s: seconds from one frame of a fingerprint to the next.
        before: songs that were in the data set.

    Returns:
        The songs in the same order; see `keep_duplicates_together`.
    """
    same = pairs(list(fingerprints), frame_s)
    return keep_duplicates_together(
        songs, [(pair.song, pair.other) for pair in same if pair.overlap_s >= LEAST_OVERLAP_S], before
    )


def keep_duplicates_together(
    songs: Sequence[SongRow], same: Sequence[tuple[str, str]] = (), before: Mapping[str, SongRow] | None = None
) -> list[SongRow]:
    """Give songs that share the audio of a stem, or a recording, the split of the first of them.

    The first is one that was in the data set: copies that are added move none of its songs. Of several, it is one that
    followed nobody; then the first by id.

    Sharing goes on: a remix with the vocals of one song over the instrumental of another brings all three together.
    Silence is shared by songs that have nothing else in common, so it does not count.

    Args:
        songs: by id.
        same: pairs of ids that hold the same recording by their fingerprints.
        before: songs that were in the data set.

    Returns:
        The songs in the same order; those that are not the first of their group say whom they follow, and why.
    """
    first: dict[str, int] = {}
    leads = list(range(len(songs)))
    """Index of an earlier song of the same group, itself where there is none."""

    def lead(index: int) -> int:
        while leads[index] != index:
            index = leads[index]
        return index

    for index, song in enumerate(songs):
        for stem in song.stems.values():
            if stem.loudness_db >= SILENT_DB:
                one, other = lead(first.setdefault(stem.content_sha256, index)), lead(index)
                leads[max(one, other)] = min(one, other)
    equal = [lead(index) for index in range(len(songs))]
    indices = {song.id: index for index, song in enumerate(songs)}
    for one, other in ((indices[a], indices[b]) for a, b in same):
        leads[max(lead(one), lead(other))] = min(lead(one), lead(other))
    known = before or {}

    def rank(index: int) -> tuple[bool, bool, int]:
        row = known.get(songs[index].id)
        return row is None, row is not None and row.follows is not None, index

    twins: dict[int, int] = {}
    for index in sorted(range(len(songs)), key=rank):
        twins.setdefault(lead(index), index)
    result = []
    for index, song in enumerate(songs):
        twin = songs[twins[lead(index)]]
        by_audio = equal[index] != index or equal[twins[lead(index)]] == index
        follows = Follows(song=twin.id, shares="audio" if by_audio else "recording")
        result.append(song.model_copy(update={"split": twin.split, "follows": None if twin is song else follows}))
    return result
