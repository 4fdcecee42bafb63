"""Audio files of every kind, made for the tests of how they are read."""

from pathlib import Path

import av
import numpy as np
import soundfile

RATE_HZ = 44_100


def music(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    """`[channel, sample]`: noise below 8 kHz, which every codec keeps."""
    noise = np.random.default_rng(seed).standard_normal((channels, samples))
    spectrum = np.fft.rfft(noise)
    spectrum[:, int(8000 / RATE_HZ * samples) :] = 0
    return (0.2 * np.fft.irfft(spectrum, samples)).astype(np.float32)


def write_coded(path: Path, streams: list[np.ndarray], codec: str, container: str, **options: str) -> Path:
    with av.open(str(path), "w", format=container, options=options) as out:
        made = [out.add_stream(codec, rate=RATE_HZ, layout="stereo") for _ in streams]
        for stream in made:
            stream.bit_rate = 192_000
        for stream, signal in zip(made, streams, strict=True):
            for start in range(0, signal.shape[1], 1152):
                piece = np.ascontiguousarray(signal[:, start : start + 1152])
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = RATE_HZ, start
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def make(folder: Path, kind: str, signal: np.ndarray) -> Path:
    path = folder / f"song.{kind}"
    if kind in ("m4a", "mp4"):
        return write_coded(path, [signal], "aac", "mp4", movflags="faststart")
    if kind == "mp3":
        return write_coded(path, [signal], "libmp3lame", "mp3")
    soundfile.write(path, signal.T, RATE_HZ, format=kind.upper())
    return path


def snr_db(reference: np.ndarray, estimate: np.ndarray) -> float:
    return float(10 * np.log10((reference**2).sum() / ((reference - estimate) ** 2).sum()))


def write_as(
    path: Path, signal: np.ndarray, codec: str, container: str, sample_format: str, rate_hz: int = RATE_HZ
) -> Path:
    """A file of a codec in any container, as FFmpeg writes it."""
    layout = "mono" if len(signal) == 1 else "stereo"
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate_hz, layout=layout)
        stream.bit_rate, stream.codec_context.format = 192_000, sample_format
        pieces = av.AudioResampler(format=sample_format, layout=layout, rate=rate_hz,
                                   frame_size=stream.codec_context.frame_size or 1024)  # fmt: skip
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(signal), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, 0
        for piece in [*pieces.resample(frame), *pieces.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return path
