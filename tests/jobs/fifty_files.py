"""Fifty files as people have them: formats, damages, rates and names, each with what is to become of it."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import soundfile

RATE_HZ = 44_100
SECONDS = 1.0


@dataclass(frozen=True)
class File:
    """One of them."""

    name: str
    write: Callable[[Path], object]
    refused: str | None = None
    """Word of the reason; None: it is a song like any other."""
    seconds: float = SECONDS


def signal(seconds: float = SECONDS, rate_hz: int = RATE_HZ, channels: int = 2, seed: int = 0) -> np.ndarray:
    """Noise `[sample, channel]`."""
    return 0.2 * np.random.default_rng(seed).standard_normal((round(seconds * rate_hz), channels))


def sound(subtype: str | None = None, form: str | None = None, **made: float) -> Callable[[Path], object]:
    """A file by libsndfile."""
    rate_hz = int(made.get("rate_hz", RATE_HZ))

    def write(path: Path) -> None:
        # Given a descriptor, libsndfile cannot stumble over a name.
        with path.open("wb") as file:
            data = signal(**made)  # type: ignore[arg-type]
            soundfile.write(file, data, rate_hz, subtype, format=form or path.suffix[1:].upper())

    return write


def coded(codec: str, container: str, rate_hz: int = 48_000) -> Callable[[Path], object]:
    """A file by FFmpeg."""

    def write(path: Path) -> None:
        with path.open("wb") as file, av.open(file, "w", format=container) as out:
            stream = out.add_stream(codec, rate=rate_hz, layout="stereo")
            if codec == "wmav2":
                stream.bit_rate = 128_000
            convert = av.AudioResampler(stream.codec_context.format, "stereo", rate_hz)
            data = np.ascontiguousarray(signal(rate_hz=rate_hz).T.astype(np.float32))
            frame = av.AudioFrame.from_ndarray(data, format="fltp", layout="stereo")
            frame.sample_rate = rate_hz
            fifo = av.AudioFifo()
            for piece in convert.resample(frame):
                fifo.write(piece)
            size = stream.codec_context.frame_size or 1024
            for piece in [*fifo.read_many(size), fifo.read(0, partial=True)]:
                if piece is not None:
                    out.mux(stream.encode(piece))
            out.mux(stream.encode(None))

    return write


def changed(write: Callable[[Path], object], change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """What `write` makes, with other bytes."""

    def act(path: Path) -> None:
        write(path)
        path.write_bytes(change(path.read_bytes()))

    return act


def data_length(length: int) -> Callable[[bytes], bytes]:
    """A wav file whose header says so many bytes of samples."""

    def change(content: bytes) -> bytes:
        at = content.index(b"data") + 4
        return content[:at] + struct.pack("<I", length) + content[at + 4 :]

    return change


def content(value: bytes) -> Callable[[Path], object]:
    """A file of these bytes."""
    return lambda path: path.write_bytes(value)


def floats(scale: float) -> Callable[[Path], object]:
    """A float wav whose full scale is `scale`."""
    return lambda path: soundfile.write(path, signal() * scale, RATE_HZ, "FLOAT")


def not_finite(path: Path) -> None:
    """A float wav with a NaN in it."""
    data = signal()
    data[100] = np.nan
    soundfile.write(path, data, RATE_HZ, "FLOAT")


PCM = sound("PCM_16", "WAV")
FILES = (
    File("pcm16.wav", PCM),
    File("pcm24.wav", sound("PCM_24")),
    File("pcm8.wav", sound("PCM_U8")),
    File("float.wav", sound("FLOAT")),
    File("double.wav", sound("DOUBLE")),
    File("rf64.wav", sound("PCM_16", "RF64")),
    File("no length.wav", changed(PCM, data_length(0))),
    File("understated.wav", changed(PCM, data_length(4 * 1000))),
    File("streamed.wav", changed(PCM, data_length(0xFFFFFFFF))),
    File("cut.wav", changed(PCM, lambda whole: whole[: len(whole) // 2]), "truncated"),
    File("as integers.wav", floats(32_768.0), "32,768"),
    File("not finite.wav", not_finite, "NaN"),
    File("48 kHz.wav", sound("PCM_16", rate_hz=48_000)),
    File("96 kHz.flac", sound("PCM_24", rate_hz=96_000)),
    File("8 kHz.wav", sound("PCM_16", rate_hz=8_000)),
    File("mono.wav", sound("PCM_16", channels=1)),
    File("surround.wav", sound("PCM_16", channels=6), "channels"),
    File("lossless.flac", sound("PCM_16")),
    File("cut.flac", changed(sound("PCM_16", "FLAC"), lambda whole: whole[: len(whole) // 2]), "cut"),
    File("flac in ogg.oga", coded("flac", "ogg")),
    File("vorbis.ogg", sound("VORBIS")),
    File("by ffmpeg.opus", coded("libopus", "ogg")),
    File("apple.aiff", sound("PCM_16")),
    File("core.caf", sound("PCM_16")),
    File("sun.au", sound("PCM_16")),
    File("sony.w64", sound("PCM_16")),
    File("player.mp3", coded("libmp3lame", "mp3", 44_100)),
    File("two in one.mp3", changed(coded("libmp3lame", "mp3", 44_100), lambda whole: whole * 2), seconds=2 * SECONDS),
    File("mp3 in wav.wav", coded("libmp3lame", "wav", 44_100)),
    File("phone.m4a", coded("aac", "ipod")),
    File("apple lossless.m4a", coded("alac", "ipod")),
    File("radio.aac", coded("aac", "adts")),
    File("matroska.mka", coded("libopus", "matroska")),
    File("browser.webm", coded("libopus", "webm")),
    File("windows.wma", coded("wmav2", "asf", 44_100)),
    File("wavpack.wv", coded("wavpack", "wv")),
    File("without a suffix", PCM),
    File("a wav called.mp3", PCM),
    File("\u6771\u4eac" * 40 + ".wav", PCM),
    File("\u0939\u093f\u0928\u094d\u0926\u0940 \u0917\u0940\u0924.wav", PCM),
    File("\u0e40\u0e1e\u0e25\u0e07\u0e44\u0e17\u0e22.wav", PCM),
    File("Queen: Song [bold] #1 $HOME 'x'.wav", PCM),
    File("live.vocals.wav", PCM),
    File("one/intro.wav", PCM),
    File("two/intro.wav", sound("PCM_24")),
    File("nothing.wav", content(b""), "empty"),
    File("only a header.wav", changed(PCM, lambda whole: whole[: whole.index(b"data") + 8]), ""),
    File("notes.mp3", content(b"These are notes, and no music.\n" * 40), "audio"),
    File("list.m3u", content(b"#EXTM3U\npcm16.wav\n"), "audio"),
    File("cover.jpg", content(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8), "audio"),
)


def write_all(folder: Path) -> list[tuple[Path, File]]:
    """All of them below `folder`."""
    made = []
    for file in FILES:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        file.write(path)
        made.append((path, file))
    return made
