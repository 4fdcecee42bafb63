"""One song: its files decoded side by side, aligned, turned into the stems that are stored.

Everything is streamed: at no time is more than a record batch of each stem in memory, whatever the song's length.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import BLOCK_SAMPLES, MAX_AUDIO_S, open_audio, regrouped
from dataprep.audio.framing import SpectrogramStream
from dataprep.audio.tracks import Track
from dataprep.audio.voice_activity import audible_runs
from dataprep.errors import SongError
from dataprep.fingerprints.fingerprint import Listener, can_listen
from dataprep.preparing.stem_checks import StemChecks, energy, find_offset
from dataprep.roles import Role
from dataprep.shards.codecs import CODECS
from dataprep.shards.manifest import Preparation, SongRow, StemRow
from dataprep.shards.writer import BATCH_FRAMES, ShardWriter, checksum
from vr_core.specs.stft import StftSpec

TOLERANCE_S = 1.0
"""Stems that begin together may end so far apart: many programs cut the silence behind the last sound."""
ALIGN_S = 0.1
"""So far a stem is looked for before and after its mixture."""
SILENT_DB = -90.0


class SongSettings(Preparation):
    """How songs are stored."""

    stft: StftSpec = StftSpec()
    codec: Literal["polar8", "complex16"] = "polar8"
    """Of vocals and instrumentals."""
    mixture_codec: Literal["magnitude8", "polar8", "complex16"] = "magnitude8"
    keep_suspicious: bool = False
    """Take songs whose mixture and stem are of two songs by their sound. It is not kept in the manifest."""

    def preparation(self) -> Preparation:
        """What of it the manifest does not store elsewhere."""
        return Preparation(**{name: getattr(self, name) for name in Preparation.model_fields})

    def codec_of(self, role: Role) -> str:
        """Codec in which a role is stored."""
        return self.mixture_codec if role == "mixture" else self.codec


def stored_roles(track: Track, settings: SongSettings) -> tuple[Role, ...]:
    """Roles that are stored of a track.

    Two of the three roles give the third, since a mixture is the sum of vocals and instrumental.
    """
    if len(track.stems) > 1:
        return ("vocals", "instrumental", "mixture") if settings.mixture else ("vocals", "instrumental")
    return tuple(track.stems)


def open_stems(track: Track, sample_rate_hz: int, max_s: float = MAX_AUDIO_S) -> Iterator[dict[Role, np.ndarray]]:
    """Decode a track as it is prepared: any two roles give the third, and all are as long as the longest file.

    Args:
        track: the song.
        sample_rate_hz: rate of what is returned.
        max_s: longest length accepted.

    Yields:
        `[2, sample]` float32 of every role, in blocks that line up with `open_audio`'s.

    Raises:
        AudioError: a source cannot be decoded.
        SongError: a source ends more than the tolerance before another.
    """
    yield from map(_complete, _aligned(track, sample_rate_hz, max_s, {}, {}))


def _offsets(beginning: Mapping[Role, np.ndarray], rate: int) -> dict[Role, int]:
    """Samples by which stems lie after the mixture that they are given with, where they do."""
    if "mixture" not in beginning:
        return {}
    stems = {role: block for role, block in beginning.items() if role != "mixture"}
    found = {role: find_offset(beginning["mixture"], block, int(ALIGN_S * rate)) for role, block in stems.items()}
    return {role: offset for role, offset in found.items() if offset}


def encode_song(
    track: Track,
    settings: SongSettings,
    stamp: str,
    writers: Mapping[Role, ShardWriter],
    tick: Callable[[float], None],
    heard: dict[str, tuple[np.ndarray, np.ndarray]],
) -> SongRow:
    """Decode a track and append its stems to shards.

    Args:
        track: the song.
        settings: how it is stored.
        stamp: identifies files and settings, see `SongRow.stamp`.
        writers: one for each of `stored_roles`.
        tick: called with the seconds of audio done since the last call; may raise to stop.
        heard: gets the words of each stem's fingerprint by its `content_sha256`, where spectra are fine enough.

    Returns:
        Its row; the split is still to be assigned.

    Raises:
        AudioError, SongError: it cannot be used; rows of it may be in the shards already.
        NoSpaceError: the disk is full.
    """
    rate = settings.stft.sample_rate_hz
    stems = {role: _StemEncoder(role, settings, writers[role]) for role in stored_roles(track, settings)}
    streams = {role: SpectrogramStream(settings.stft, BATCH_FRAMES) for role in stems if _is_transformed(role, stems)}
    checks = StemChecks()
    samples = 0
    lengths: dict[AudioSource, int] = {}
    late: dict[Role, int] = {}
    if settings.align and len(track.stems) > 1:  # what is moved must be known before
        with closing(_aligned(track, rate, settings.max_song_s, {}, {})) as begun:
            late = _offsets(next(begun, {}), rate)
    read: dict[AudioSource, list[str]] = {}
    for index, given in enumerate(_aligned(track, rate, settings.max_song_s, lengths, late, read)):
        if index == 0 and not settings.align:
            late = _offsets(given, rate)
        blocks = _complete(given)
        for role, stem in stems.items():
            stem.add(blocks[role])
        _write(stems, {role: stream.push(blocks[role]) for role, stream in streams.items()})
        checks.add(given, blocks)
        block_samples = next(iter(blocks.values())).shape[1]
        samples += block_samples
        tick(block_samples / rate)
    if not samples:
        raise SongError(f"{track.id}: too short for a single sample at {rate} Hz; remove it")
    _write(stems, {role: stream.finish() for role, stream in streams.items()})
    rows = {role: stem.row() for role, stem in stems.items()}
    silent = [role for role, row in rows.items() if row.loudness_db < SILENT_DB]
    if len(silent) == len(rows):
        raise SongError(f"{sources_of(track)[0]}: silent from beginning to end; remove it")
    if not settings.keep_suspicious and (why := checks.contradiction(late)):
        raise SongError(f"{track.id}: {why}; left out, --keep-suspicious takes it all the same")
    notes = [*track.notes, *_notes_on_files(track, rate, lengths, late, moved=settings.align)]
    notes += [note for source in sorted(read, key=str) for note in read[source]]
    notes += [f"{role} silent" for role in silent] + checks.notes()
    for role, stem in stems.items():
        if stem.listener is not None:
            heard[rows[role].content_sha256] = stem.listener.words()
    return SongRow(
        id=track.id, split="train", samples=samples, frames=settings.stft.frames(samples), stems=rows,
        sources={
            role: tuple(replace(source, path=source.path.absolute()) for source in sources)
            for role, sources in track.stems.items()
        },
        stamp=stamp, notes=tuple(notes),
    )  # fmt: skip


def _notes_on_files(
    track: Track, rate: int, lengths: Mapping[AudioSource, int], late: Mapping[Role, int], *, moved: bool
) -> list[str]:
    """How the files lie beside each other, and which stem was made of them."""
    notes = []
    for role, offset in late.items():
        side = "after" if offset > 0 else "before"
        by = f"{abs(offset)} samples ({abs(offset) / rate * 1000:.1f} ms) {side} the mixture"
        notes.append(f"{role} moved, it lay {by}" if moved else f"{role} lies {by}; --align moves it")
    if difference := max(lengths.values()) - min(lengths.values()):
        notes.append(f"files differ by {difference} samples ({difference / rate:.3f} s); padded to the longest")
    if len(track.stems) == 2 and "mixture" in track.stems:
        made, other = ("vocals", "instrumental") if "instrumental" in track.stems else ("instrumental", "vocals")
        notes.append(f"{made} made as mixture - {other}")
    return notes


@dataclass
class _StemEncoder:
    """One stem on its way into a shard."""

    role: Role
    settings: SongSettings
    writer: ShardWriter
    peaks: list[float] = field(default_factory=list)
    crcs: list[int] = field(default_factory=list)
    energy: float = 0.0

    def __post_init__(self) -> None:
        self._codec = CODECS[self.settings.codec_of(self.role)]
        self._hash = hashlib.sha256()
        self._values = 0
        self.listener = Listener(self.settings.stft) if can_listen(self.settings.stft) else None
        self._first = self.writer.batches, self.writer.rows

    def add(self, block: np.ndarray) -> None:
        """Samples `[channel, sample]`, for its level and hash."""
        self.energy += energy(block)
        self._values += block.size
        # Sample by sample, so that the hash does not depend on the length of blocks.
        self._hash.update(np.ascontiguousarray(block.T).data)

    def write(self, spectrogram: np.ndarray) -> None:
        """Frames of one record batch, `[channel, bin, frame]`."""
        if self.listener is not None:
            bins = spectrogram[:, self.listener.bins]
            self.listener.add(np.square(bins.real) + np.square(bins.imag))
        columns, peak = self._codec.encode(spectrogram)
        self.writer.write(columns)
        self.peaks.append(peak)
        self.crcs.append(checksum(columns))

    def row(self) -> StemRow:
        """The stem, whose frames are all written."""
        batch, row = self._first
        stft = self.settings.stft
        levels = self.listener.levels() if self.listener and self.role == "vocals" else None
        return StemRow(
            shard=self.writer.path.name, first_batch=batch, first_row=row, frames=self.writer.rows - row,
            audible=None if levels is None else audible_runs(levels, stft.hop / stft.sample_rate_hz),
            peaks=tuple(self.peaks), crcs=tuple(self.crcs), content_sha256=self._hash.hexdigest(),
            loudness_db=round(_decibels(self.energy / max(1, self._values)), 3),
        )  # fmt: skip


def _is_transformed(role: Role, stored: Collection[Role]) -> bool:
    """A mixture's spectrogram is the sum of those of its stems, which cost a third more to transform once more."""
    return role != "mixture" or len(stored) == 1


def _write(stems: Mapping[Role, _StemEncoder], pieces: Mapping[Role, Iterator[np.ndarray]]) -> None:
    """Write record batches of all stems, which come side by side since all are equally long."""
    for spectrograms in zip(*pieces.values(), strict=True):
        given = dict(zip(pieces, spectrograms, strict=True))
        for role, stem in stems.items():
            stem.write(given[role] if role in given else given["vocals"] + given["instrumental"])


def _complete(given: Mapping[Role, np.ndarray]) -> dict[Role, np.ndarray]:
    """All three roles from any two; a single one as it is. What is stored as the mixture is always the sum."""
    if len(given) == 1:
        return dict(given)
    vocals, instrumental = given.get("vocals"), given.get("instrumental")
    if vocals is None:
        vocals = given["mixture"] - given["instrumental"]
    elif instrumental is None:
        instrumental = given["mixture"] - given["vocals"]
    assert instrumental is not None
    return {"vocals": vocals, "instrumental": instrumental, "mixture": vocals + instrumental}


def _aligned(
    track: Track,
    rate: int,
    max_s: float,
    lengths: dict[AudioSource, int],
    late: Mapping[Role, int],
    notes: dict[AudioSource, list[str]] | None = None,
) -> Generator[dict[Role, np.ndarray]]:
    """Blocks `[2, sample]` of each role side by side, sources of a role summed, all as long as the longest.

    Roles that are `late` by some samples are moved forward, by a negative number back. Fills `lengths` with the samples
    of each source, as long as it was before it was moved, and `notes` with what `open_audio` notes.

    Raises:
        AudioError: a source cannot be decoded.
        SongError: a source ends more than the tolerance before another.
    """
    # What `open_audio` returns is a generator; closing it closes its file.
    shifts = {source: late.get(role, 0) for role, sources in track.stems.items() for source in sources}
    notes = {} if notes is None else notes
    notes.update({source: [] for source in shifts})
    opened = {s: cast(Generator[np.ndarray], open_audio(s, rate, max_s=max_s, notes=notes[s])) for s in shifts}
    streams = {source: _moved(blocks, shifts[source]) for source, blocks in opened.items()}
    lengths.update(shifts)
    try:
        while blocks := {s: block for s, stream in streams.items() if (block := next(stream, None)) is not None}:
            for source, block in blocks.items():
                lengths[source] += block.shape[1]
            # One that goes on may be of any length; those that are moved are in step only when they have ended.
            refuse_mismatch({s: (n / rate, math.inf if s in blocks else n / rate) for s, n in lengths.items()})
            size = max(block.shape[1] for block in blocks.values())
            result: dict[Role, np.ndarray] = {}
            for role, sources in track.stems.items():
                total = np.zeros((2, size), np.float32)
                for source in sources:
                    if source in blocks:
                        total[:, : blocks[source].shape[1]] += blocks[source]
                result[role] = total
            yield result
        refuse_mismatch({source: (length / rate, length / rate) for source, length in lengths.items()})
    finally:
        for stream in streams.values():
            stream.close()


def _moved(blocks: Generator[np.ndarray], late: int) -> Generator[np.ndarray]:
    """The signal without its first `late` samples, or after as many zeros; in blocks as long as before."""
    if not late:
        return blocks
    return regrouped(_from(blocks, late), BLOCK_SAMPLES)


def _from(blocks: Generator[np.ndarray], late: int) -> Generator[np.ndarray]:
    with closing(blocks):
        if late < 0:
            yield np.zeros((2, -late), np.float32)
        left = max(late, 0)
        for block in blocks:
            kept = block[:, left:]
            left -= block.shape[1] - kept.shape[1]
            if kept.shape[1]:
                yield kept


def refuse_mismatch(seconds: Mapping[AudioSource, tuple[float, float]]) -> None:
    """Refuse files of which one surely ends too long before another; values are the least and the most seconds.

    Raises:
        SongError: it does.
    """
    if len(seconds) < 2:
        return
    short = min(seconds, key=lambda s: seconds[s][1])
    long = max(seconds, key=lambda s: seconds[s][0])
    if seconds[long][0] - seconds[short][1] > TOLERANCE_S:
        raise SongError(
            f"{short} ends at {seconds[short][1]:.2f} s and {long} at {seconds[long][0]:.2f} s or later; stems of a "
            f"song may differ by {TOLERANCE_S:g} s, export them again with the same length"
        )


def sources_of(track: Track) -> tuple[AudioSource, ...]:
    """Everything that a track is read from, each once."""
    return tuple(dict.fromkeys(source for sources in track.stems.values() for source in sources))


def _decibels(power: float) -> float:
    return 10 * math.log10(max(power, 1e-20))
