"""What is known of songs before they are decoded: what their headers say, and a stamp that tells whether they changed.

A stamp is a digest of everything that a song's rows are made from: its files, the settings, and how files are read.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from dataprep.audio.decoders import AudioInfo, AudioSource
from dataprep.audio.files import probe
from dataprep.audio.reading_rules import rules_of
from dataprep.audio.tracks import Track, files_of
from dataprep.errors import AudioError, DataError
from dataprep.preparing.song import SongSettings, refuse_mismatch, sources_of, stored_roles
from dataprep.shards.manifest import MIXTURE_CODEC, SongRow
from vr_core.config import digest, plain

_BYTES_PER_S = 16_000
"""Of a coded file whose header states no length: 128 kbit/s."""


@dataclass(frozen=True)
class Surveyed:
    """What is known of one track."""

    length_s: float
    """By the headers of its files; estimated from their sizes where a header does not say."""
    stamp: str
    rules: tuple[str, ...]
    """By which of `reading_rules` its files are read otherwise than once; mostly none."""
    stamp_once: str
    """What the stamp was before there were these rules."""


def survey(tracks: Sequence[Track], settings: SongSettings) -> tuple[dict[str, Surveyed], list[tuple[str, str]]]:
    """What is known of tracks by id, and of those whose files cannot be opened (id, reason); in their order."""
    found: dict[str, Surveyed] = {}
    failed: list[tuple[str, str]] = []

    def look(track: Track) -> Surveyed | DataError:
        try:
            infos, length_s = headers(track)
            rules = [list(rules_of(infos[source])) for _, source in _files(track)]
            facts = _facts(track, settings)
        except DataError as error:
            return error
        except OSError as error:
            return _unopened(error)
        names = tuple(dict.fromkeys(name for of_file in rules for name in of_file))
        return Surveyed(length_s, _stamp(facts, rules), names, _stamp(facts, []))

    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        for track, seen in zip(tracks, pool.map(look, tracks), strict=True):
            if isinstance(seen, DataError):
                failed.append((track.id, str(seen)))
            else:
                found[track.id] = seen
    return found, failed


def is_current(song: SongRow, settings: SongSettings) -> bool:
    """Whether a song's files are those that it was prepared from, and are read as they were then."""
    track = song.track()
    seen, _ = survey([track], settings)
    return track.id in seen and seen[track.id].stamp == song.stamp


def are_gone(song: SongRow) -> bool:
    """Whether none of a song's files is where it was; not where a disk does not answer."""
    for file, _ in files_of(song.sources):
        try:
            os.stat(file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return False
        return False
    return True


def headers(track: Track) -> tuple[dict[AudioSource, AudioInfo], float]:
    """What the headers of a track's files say, and its length in seconds.

    Raises:
        AudioError: a file cannot be opened, or its header not be read.
        SongError: headers that count samples differ by more than the tolerance.
    """
    try:
        infos = {source: probe(source) for source in sources_of(track)}
        return infos, _length_s(infos)
    except OSError as error:
        raise _unopened(error) from None


def _length_s(infos: Mapping[AudioSource, AudioInfo]) -> float:
    known: dict[AudioSource, tuple[float, float]] = {}
    longest = 0.0
    for source, info in infos.items():
        if info.samples is None:
            longest = max(longest, source.path.stat().st_size / _BYTES_PER_S)
            continue
        seconds = info.samples / info.sample_rate_hz
        longest = max(longest, seconds)
        if info.exact:
            known[source] = seconds - info.slack_samples / info.sample_rate_hz, seconds
    refuse_mismatch(known)
    return longest


def _unopened(error: OSError) -> AudioError:
    return AudioError(f"{error.filename}: cannot be opened ({error.strerror}); check the path")


def _files(track: Track) -> list[tuple[str, AudioSource]]:
    return [(role, source) for role, sources in sorted(track.stems.items()) for source in sources]


def _facts(track: Track, settings: SongSettings) -> list[Any]:
    """All of a stamp but how files are read."""
    files = []
    for role, source in _files(track):
        there = source.path.stat()
        files.append([role, str(source.path.resolve()), source.stream, there.st_size, there.st_mtime_ns])
    how = plain(settings)
    if not settings.align:  # what was prepared before there was such a setting stays what it is
        del how["align"]
    if settings.mixture_codec == MIXTURE_CODEC:  # likewise
        del how["mixture_codec"]
    del how["keep_suspicious"]  # decides which songs are taken, and not what is stored of one
    return [files, how, stored_roles(track, settings)]


def _stamp(facts: list[Any], rules: Sequence[Sequence[str]]) -> str:
    """`rules` of each file; where there are none, what is read as it always was keeps its stamp."""
    return digest([*facts, *([rules] if any(rules) else [])], 16)
