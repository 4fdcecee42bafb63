"""FFmpeg (PyAV): mp3, mp4, Opus, Matroska and all that libsndfile does not read."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import av
import numpy as np

from dataprep.audio.decoding import mp3
from dataprep.audio.decoding.parts import open_part
from dataprep.audio.source import AudioInfo, AudioSource, Part, one_line
from dataprep.errors import AudioError, EmptyAudioError, TruncatedAudioError, UnreadableAudioError

READ_SAMPLES = 2**17
# Encoders pad the last packet, and demuxers trim it or not: two HE-AAC packets either way are not a cut file.
PACKET_SLACK_SAMPLES = 4096

DEMUXERS = (
    "aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dsf", "dts", "eac3", "flac", "flv", "iff", "loas",
    "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2", "mp3", "mpc", "mpc8", "mpeg", "mpegts", "ogg", "oma", "rm", "shn",
    "spdif", "tak", "truehd", "tta", "voc", "w64", "wav", "wv", "xwma",
)  # fmt: skip
"""FFmpeg's readers of files that hold sound themselves. Playlists (hls, concat, dash, imf) name other files to read."""


def probe(source: AudioSource, parts: tuple[Part, ...] = ()) -> AudioInfo:
    """What the header says; of an mp3, also what is behind it.

    `parts` are pieces to be read one after the other, where the file is known to have some.

    Raises:
        UnreadableAudioError, EmptyAudioError: as `dataprep.audio.files.probe`.
    """
    if parts:
        return _joined([_probe(source, part) for part in parts], parts)
    info = _probe(source, None)
    if info.format != "MP3 mp3float":
        return info
    facts = mp3.facts(source.path)
    if not facts.parts:
        return info
    whole = _joined([_probe(source, part) for part in facts.parts], facts.parts)
    return whole if facts.stated_samples is None else replace(whole, stated_samples=facts.stated_samples)


def _joined(found: list[AudioInfo], parts: tuple[Part, ...]) -> AudioInfo:
    lengths = [each.samples for each in found if each.samples is not None]
    known = len(lengths) == len(found)
    return replace(
        found[0], samples=sum(lengths) if known else None, exact=known and all(each.exact for each in found),
        slack_samples=PACKET_SLACK_SAMPLES * len(found), parts=parts,
        stated_samples=found[0].samples if len(found) > 1 else None,
    )  # fmt: skip


def decode(source: AudioSource, info: AudioInfo, *, strict: bool = False) -> Generator[np.ndarray]:
    """Blocks `[channel, sample]` float32 at the file's own rate.

    `strict` compares the checksums that a codec has, which players leave alone.

    Raises:
        TruncatedAudioError: it fails in the middle.
        AudioError: the rate or the number of channels changes.
    """
    done = 0
    for part in info.parts or (None,):
        own = info if part is None else _probe(source, part)
        if (own.sample_rate_hz, own.channels) != (info.sample_rate_hz, info.channels):
            raise _change(source)
        for block in _decode(source, own, part, done, strict):
            done += block.shape[1]
            yield block


@contextmanager
def _container(source: AudioSource, part: Part | None) -> Iterator[av.container.InputContainer]:
    """The file or a part of it, and no other: neither its name nor its content makes FFmpeg open anything else.

    A name with a colon would be a protocol (`subfile,,…`, `Queen: Song.mp3`), so it is given as an absolute `file:`.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(DEMUXERS)}
    with ExitStack() as stack:
        file = f"file:{source.path.absolute()}" if part is None else stack.enter_context(open_part(source.path, part))
        yield stack.enter_context(av.open(file, "r", options=options))


def _probe(source: AudioSource, part: Part | None) -> AudioInfo:
    try:
        with _container(source, part) as container:
            streams = container.streams.audio
            if source.stream >= len(streams):
                raise UnreadableAudioError(
                    f"{source}: has {len(streams)} audio streams, expected at least {source.stream + 1}"
                )
            stream = streams[source.stream]
            frame = next(_frames(container, stream, strict=False), None)
            if frame is None:
                raise EmptyAudioError(f"{source}: has no samples in it; export it again")
            name = container.format.name.split(",")[0]
            duration_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            # mp4 and Xing headers count samples; elsewhere FFmpeg guesses from the bit rate.
            exact = duration_s is not None and (
                name in ("mov", "flac")
                or (name == "mp3" and mp3.has_header(source.path, 0 if part is None else part.start))
            )
            if duration_s is None and container.duration:  # Matroska states that of the whole
                duration_s = container.duration / av.time_base
            rate, codec = frame.sample_rate, stream.codec_context.name
            counts = name == "ogg" and codec == "flac" and not stream.start_time
            info = AudioInfo(
                rate, frame.layout.nb_channels, None if duration_s is None else round(duration_s * rate),
                exact or counts, f"{name.upper()} {codec}", "ffmpeg", PACKET_SLACK_SAMPLES,
                padded=exact and name != "flac",
            )  # fmt: skip
            return _with_index(info, stream) if name == "mov" else info
    except (av.FFmpegError, ValueError) as error:
        raise UnreadableAudioError(
            f"{source}: cannot be read as audio ({one_line(error)}); expected wav, flac, ogg, mp3, m4a or mp4"
        ) from None


def _with_index(info: AudioInfo, stream: av.AudioStream) -> AudioInfo:
    """What the index of an mp4 holds, where that is more than its header states."""
    entries = stream.index_entries
    if info.samples is None or stream.time_base is None or not len(entries):
        return info
    begin_of_last = round(float(entries[-1].timestamp * stream.time_base) * info.sample_rate_hz)
    if begin_of_last <= info.samples + info.slack_samples:
        return info
    return replace(info, samples=begin_of_last, exact=True, padded=False, stated_samples=info.samples)


def _decode(
    source: AudioSource, info: AudioInfo, part: Part | None, before: int, strict: bool
) -> Generator[np.ndarray]:
    done = held = 0
    # Behind the length that mp4 and Xing headers state lies only the encoder's padding.
    left = info.samples if info.padded and info.samples is not None else 2**63
    pending: list[np.ndarray] = []
    planar = av.AudioResampler(format="fltp")
    try:
        with _container(source, part) as container:
            for packed in _frames(container, container.streams.audio[source.stream], strict):
                if (packed.sample_rate, packed.layout.nb_channels) != (info.sample_rate_hz, info.channels):
                    raise _change(source)
                for frame in planar.resample(packed):
                    pending.append(frame.to_ndarray()[:, : max(0, left - done)])
                    done += frame.samples
                    held += frame.samples
                if held >= READ_SAMPLES:
                    yield np.concatenate(pending, axis=1)
                    pending, held = [], 0
    except (av.FFmpegError, ValueError) as error:
        raise TruncatedAudioError(
            f"{source}: damaged or cut after {before + done:,} samples ({one_line(error)}); copy or export it again"
        ) from None
    if pending:
        yield np.concatenate(pending, axis=1)


def _frames(container: av.container.InputContainer, stream: av.AudioStream, strict: bool) -> Iterator[av.AudioFrame]:
    """Decoded frames of a stream.

    Opus in Ogg goes through libopus, the reference, by which libsndfile decodes it too: FFmpeg's own decoder differs
    from both by up to 0.2 of full scale where the encoder changes its mode.
    """
    if container.format.name != "ogg" or stream.codec_context.name != "opus":
        if strict:
            stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
        yield from container.decode(stream)
        return
    decoder = av.codec.Codec("libopus", "r").create("audio")
    decoder.extradata = stream.codec_context.extradata
    decoder.sample_rate, decoder.layout = stream.codec_context.sample_rate, stream.codec_context.layout
    decoder.options = {"request_sample_fmt": "flt"}
    for packet in container.demux(stream):
        yield from decoder.decode(packet)


def _change(source: AudioSource) -> AudioError:
    return AudioError(f"{source}: changes its sample rate or channels in the middle; export it again")
