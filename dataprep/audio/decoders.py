"""Which decoder reads a file, decided by its first bytes and never by its name.

libsndfile is asked first for wav, aiff, flac and ogg; FFmpeg (PyAV) for the rest: mp4 and m4a, which libsndfile cannot,
and mp3, where libsndfile stops early without saying so when a file of variable bit rate has no Xing header. What one
refuses, the other is asked for. Where it is known that libsndfile stops in the middle (Opus, mp3 in a wav), FFmpeg
reads from the beginning.
"""

from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np

from dataprep.audio.decoding import boxes, ffmpeg, flac, iff, libsndfile, ogg
from dataprep.audio.decoding.magic import looks_like_audio
from dataprep.audio.source import AudioInfo, AudioSource, Part, one_line
from dataprep.errors import AudioError, EmptyAudioError, TruncatedAudioError, UnreadableAudioError

__all__ = ["AudioInfo", "AudioSource", "decode", "looks_like_audio", "one_line", "probe"]

_LIBSNDFILE_MAGIC = (b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS", b"riff", b".snd")


def probe(source: AudioSource) -> AudioInfo:
    """What the header says; errors as `dataprep.audio.files.probe`, and OSError when the file cannot be opened."""
    with source.path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise EmptyAudioError(f"{source}: is empty (0 bytes); copy it again")
    if head == b"OggS":
        return _probe_ogg(source)
    return _probe_libsndfile(source) if head in _LIBSNDFILE_MAGIC else _probe_ffmpeg(source, head)


def decode(
    source: AudioSource, info: AudioInfo, on_handover: Callable[[], None] = lambda: None
) -> Generator[np.ndarray]:
    """Blocks `[channel, sample]` float32 at the file's own rate.

    Where libsndfile stops in the middle, FFmpeg goes on behind the last sample, and `on_handover` is called.

    Raises:
        TruncatedAudioError: both decoders fail in the middle.
        AudioError: the rate or the number of channels changes in the middle.
    """
    return ffmpeg.decode(source, info) if info.decoder == "ffmpeg" else _by_both(source, info, on_handover)


def _by_both(source: AudioSource, info: AudioInfo, on_handover: Callable[[], None]) -> Generator[np.ndarray]:
    done = 0
    try:
        for block in libsndfile.decode(source, info):
            done += block.shape[1]
            yield block
    except TruncatedAudioError as stopped:
        try:
            for block in _behind(source, info, done):
                done += block.shape[1]
                yield block
        except AudioError:
            raise stopped from None
        if done != info.samples:  # FFmpeg passes over what is damaged
            raise stopped from None
        on_handover()


def _behind(source: AudioSource, info: AudioInfo, skip: int) -> Generator[np.ndarray]:
    """What FFmpeg reads behind the first `skip` samples, if it takes the file for the same."""
    if info.parts or (found := ffmpeg.probe(source)).sample_rate_hz != info.sample_rate_hz:
        raise UnreadableAudioError(f"{source}: not the same to both decoders")
    for block in ffmpeg.decode(source, replace(found, padded=False), strict=True):
        yield block[:, min(skip, block.shape[1]) :]
        skip -= min(skip, block.shape[1])


def _probe_libsndfile(source: AudioSource) -> AudioInfo:
    if (coded := iff.coded(source.path)) is not None and coded.is_mp3:
        return _probe_mp3_in_wav(source, coded)
    try:
        info = libsndfile.probe(source)
    except UnreadableAudioError as refused:
        try:
            return replace(ffmpeg.probe(source), refused_by="libsndfile")
        except AudioError:
            raise refused from None
    if info.samples is None:  # flac from a pipe
        return ffmpeg.probe(source)
    return _to_the_last_frame(source, info)


def _probe_mp3_in_wav(source: AudioSource, coded: iff.Coded) -> AudioInfo:
    """What FFmpeg says: libsndfile stops in the middle, and libmpg123 in it prints on stderr."""
    if coded.is_cut:
        raise libsndfile.truncated(source, coded.stated_bytes, coded.held_bytes)
    return replace(ffmpeg.probe(source), refused_by="libsndfile")


def _to_the_last_frame(source: AudioSource, info: AudioInfo) -> AudioInfo:
    """FFmpeg reads a flac file to its end, libsndfile as far as the header says."""
    if not info.format.startswith("FLAC") or (lengths := flac.stated_and_held(source.path)) is None:
        return info
    stated, held = lengths
    whole = ffmpeg.probe(source) if info.decoder == "libsndfile" else info
    return replace(whole, samples=held, exact=True, slack_samples=0, stated_samples=stated)


def _probe_ffmpeg(source: AudioSource, head: bytes) -> AudioInfo:
    found = boxes.facts(source.path)
    if found.missing_bytes:
        raise TruncatedAudioError(
            f"{source}: truncated, {found.missing_bytes:,} bytes are missing at its end by what its header promises; "
            "copy or export it again"
        )
    try:
        info = ffmpeg.probe(source, found.parts)
        if found.stated_share is not None:
            return replace(info, stated_samples=round(found.stated_share * (info.samples or 0)))
        return _to_the_last_frame(source, info)
    except UnreadableAudioError as refused:
        if head.startswith((b"ID3", b"\xff")):  # libsndfile takes anything for mp3 that has two bytes of a frame
            raise
        try:
            return replace(libsndfile.probe(source), refused_by="ffmpeg")
        except AudioError:
            raise refused from None


def _probe_opus(source: AudioSource, links: tuple[Part, ...]) -> AudioInfo:
    """Opus as FFmpeg writes it from a webm, whose times are in milliseconds."""
    parts = links if len(links) > 1 else ()
    info = replace(ffmpeg.probe(source, parts), refused_by="libsndfile", padded=False)
    # FFmpeg guesses the length, and passes over pages that are damaged.
    lengths = [libsndfile.stated_samples(source.path, part) for part in links]
    known = [length for length in lengths if length is not None]
    if len(known) < len(links):
        return replace(info, exact=False, stated_samples=None)
    return replace(info, samples=sum(known), exact=True, stated_samples=known[0] if parts else None)


def _probe_ogg(source: AudioSource) -> AudioInfo:
    if ogg.ends_inside_page(source.path):
        raise TruncatedAudioError(f"{source}: truncated, it ends in the middle of an Ogg page; copy or export it again")
    facts = ogg.facts(source.path)
    parts = facts.links if len(facts.links) > 1 else ()
    if facts.jumps:
        return _probe_opus(source, facts.links)
    try:
        return libsndfile.probe(source, parts)
    except UnreadableAudioError as refused:
        try:
            return replace(ffmpeg.probe(source, parts), refused_by="libsndfile")
        except AudioError:
            raise refused from None
