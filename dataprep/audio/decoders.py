"""The two decoders and what each must be watched for.

Who decodes what is decided by a file's first bytes, never by its name. libsndfile reads wav, aiff, flac and ogg;
FFmpeg (PyAV) reads the rest: mp4 and m4a, which libsndfile cannot, and mp3, where libsndfile stops early without
saying so when a file of variable bit rate has no Xing header.
"""

import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import soundfile

from dataprep.errors import AudioError, EmptyAudioError, TruncatedAudioError, UnreadableAudioError

READ_SAMPLES = 2**17
_LIBSNDFILE_MAGIC = (b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS")
# Encoders pad the last packet, and demuxers trim it or not: two HE-AAC packets either way are not a cut file.
_PACKET_SLACK_SAMPLES = 4096
# What programs that write to a pipe leave in a wav header's length, since they cannot go back to fill it in.
_UNKNOWN_LENGTHS = (0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True)
class AudioSource:
    """One audio stream of a file."""

    path: Path
    stream: int = 0
    """Which audio stream of an mp4 (a `.stem.mp4` has five)."""

    def __str__(self) -> str:
        return f"{self.path}:{self.stream}" if self.stream else str(self.path)


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

    sample_rate_hz: int
    channels: int
    samples: int | None
    """Per channel, at the file's own rate. None where the header does not say."""
    exact: bool
    """False where `samples` is a guess from the bit rate (mp3 without a Xing header)."""
    format: str
    decoder: Literal["libsndfile", "ffmpeg"]
    slack_samples: int = 0
    """How many samples fewer than `samples` still are the whole file: the padding of coded packets."""


def probe(source: AudioSource) -> AudioInfo:
    """What the header says; errors as `dataprep.audio.files.probe`, and OSError when the file cannot be opened."""
    with source.path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise EmptyAudioError(f"{source}: is empty (0 bytes); remove it or copy it again")
    return _probe_libsndfile(source) if head in _LIBSNDFILE_MAGIC else _probe_ffmpeg(source)


def decode(source: AudioSource, info: AudioInfo) -> Generator[np.ndarray]:
    """Blocks `[channel, sample]` float32 at the file's own rate.

    Raises:
        TruncatedAudioError: the decoder fails in the middle.
    """
    return _decode_libsndfile(source) if info.decoder == "libsndfile" else _decode_ffmpeg(source, info)


def one_line(error: BaseException) -> str:
    """What a library says went wrong."""
    text = str(getattr(error, "error_string", "") or getattr(error, "strerror", "") or error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def _probe_libsndfile(source: AudioSource) -> AudioInfo:
    try:
        with soundfile.SoundFile(source.path) as file:
            rate, channels, frames = file.samplerate, file.channels, file.frames
            kind, log = f"{file.format} {file.subtype}", file.extra_info
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UnreadableAudioError(
            f"{source}: cannot be read as audio ({one_line(error)}); export the file again"
        ) from None
    if source.stream:
        raise UnreadableAudioError(f"{source}: has no audio stream {source.stream}; a {kind} file has one")
    # libsndfile takes the file's size over a header that promises more, and only its log tells.
    promised = re.search(r"(?:data|SSND)\s*: (\d+) \(should be (\d+)\)", log)
    if promised and int(promised[1]) > int(promised[2]) and int(promised[1]) not in _UNKNOWN_LENGTHS:
        raise TruncatedAudioError(
            f"{source}: truncated, the header promises {int(promised[1]):,} bytes of samples and the file holds "
            f"{int(promised[2]):,}; copy or export it again"
        )
    if kind.startswith("OGG") and _ends_inside_page(source.path):
        raise TruncatedAudioError(f"{source}: truncated, it ends in the middle of an Ogg page; copy or export it again")
    if frames == 0:
        raise EmptyAudioError(f"{source}: has no samples in it; remove it or export it again")
    # FLAC written to a pipe does not state its length: libsndfile then says 2^63 - 1, and fails to read it.
    if frames >= 2**62:
        return _probe_ffmpeg(source)
    return AudioInfo(rate, channels, frames, True, kind, "libsndfile")


DEMUXERS = (
    "aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dsf", "dts", "eac3", "flac", "flv", "iff", "loas",
    "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "mp3", "mpc", "mpc8", "mpeg", "mpegts", "ogg", "oma", "rm", "shn",
    "spdif", "tak", "truehd", "tta", "voc", "w64", "wav", "wv", "xwma",
)  # fmt: skip
"""FFmpeg's readers of files that hold sound themselves. Playlists (hls, concat, dash, imf) name other files to read."""


def _container(source: AudioSource) -> av.container.InputContainer:
    """The file, and no other: neither its name nor its content makes FFmpeg open anything else.

    A name with a colon would be a protocol (`subfile,,…`, `Queen: Song.mp3`), so it is given as an absolute `file:`.
    """
    return av.open(
        f"file:{source.path.absolute()}",
        options={"protocol_whitelist": "file", "format_whitelist": ",".join(DEMUXERS)},
    )


def _probe_ffmpeg(source: AudioSource) -> AudioInfo:
    try:
        with _container(source) as container:
            streams = container.streams.audio
            if source.stream >= len(streams):
                raise UnreadableAudioError(
                    f"{source}: has {len(streams)} audio streams, expected at least {source.stream + 1}"
                )
            stream = streams[source.stream]
            frame = next(container.decode(stream), None)
            if frame is None:
                raise EmptyAudioError(f"{source}: has no samples in it; remove it or export it again")
            name = container.format.name.split(",")[0]
            duration_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            # mp4 and Xing headers count samples; elsewhere FFmpeg guesses from the bit rate.
            exact = duration_s is not None and (name in ("mov", "flac") or (name == "mp3" and _has_xing(source.path)))
            return AudioInfo(
                frame.sample_rate, frame.layout.nb_channels,
                None if duration_s is None else round(duration_s * frame.sample_rate), exact,
                f"{name.upper()} {stream.codec_context.name}", "ffmpeg", _PACKET_SLACK_SAMPLES,
            )  # fmt: skip
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableAudioError(
            f"{source}: cannot be read as audio ({one_line(error)}); expected wav, flac, ogg, mp3, m4a or mp4"
        ) from None


def _decode_libsndfile(source: AudioSource) -> Generator[np.ndarray]:
    done = 0
    try:
        with soundfile.SoundFile(source.path) as file:
            while len(block := file.read(READ_SAMPLES, dtype="float32", always_2d=True)):
                done += len(block)
                yield block.T
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise TruncatedAudioError(
            f"{source}: damaged or cut after {done:,} samples ({one_line(error)}); copy or export it again"
        ) from None


def _decode_ffmpeg(source: AudioSource, info: AudioInfo) -> Generator[np.ndarray]:
    done = held = 0
    # Behind the length that mp4 and Xing headers state lies only the encoder's padding.
    left = info.samples if info.exact and info.samples is not None else 2**63
    pending: list[np.ndarray] = []
    planar = av.AudioResampler(format="fltp")
    try:
        with _container(source) as container:
            for packed in container.decode(container.streams.audio[source.stream]):
                if (packed.sample_rate, packed.layout.nb_channels) != (info.sample_rate_hz, info.channels):
                    raise AudioError(f"{source}: changes its sample rate or channels in the middle; export it again")
                for frame in planar.resample(packed):
                    pending.append(frame.to_ndarray()[:, : max(0, left - done)])
                    done += frame.samples
                    held += frame.samples
                if held >= READ_SAMPLES:
                    yield np.concatenate(pending, axis=1)
                    pending, held = [], 0
    except (av.FFmpegError, ValueError) as error:
        raise TruncatedAudioError(
            f"{source}: damaged or cut after {done:,} samples ({one_line(error)}); copy or export it again"
        ) from None
    if pending:
        yield np.concatenate(pending, axis=1)


def _ends_inside_page(path: Path) -> bool:
    """Whether an Ogg file stops before the end that its last page states: Ogg has no length in its header."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 65_307))  # the largest page
        tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0:
        return False
    segments = tail[at + 26] if at + 26 < len(tail) else 255
    table = tail[at + 27 : at + 27 + segments]
    return len(table) < segments or at + 27 + segments + sum(table) > len(tail)


def _has_xing(path: Path) -> bool:
    """Whether the first frame of an mp3 states the number of frames."""
    with path.open("rb") as file:
        head = file.read(10)
        skip = 0
        if head[:3] == b"ID3":
            skip = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        file.seek(skip)
        return re.search(rb"Xing|Info|VBRI", file.read(4096)) is not None
