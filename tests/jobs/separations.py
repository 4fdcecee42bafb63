"""`vr separate` in this process, with a tiny model, on songs of noise."""

from pathlib import Path

import av
import numpy as np
import soundfile
import torch
import typer
from typer.testing import CliRunner

from jobs.commands.separate import separate as command
from tests.masking import Masking
from vr_core.models.registry import build
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import PlainStackSpec
from vr_core.specs.stft import StftSpec
from vr_core.weights import WeightsMeta, save_weights

RATE_HZ = 8000
META = WeightsMeta(
    model=PlainStackSpec(width=4, blocks=1), stft=StftSpec(sample_rate_hz=RATE_HZ, n_fft=128, hop=64),
    crop_frames=32, step=7, run="tiny-1",
)  # fmt: skip


class Gain(Masking):
    """A model whose mask is one number: 0 leaves all to the vocals, more than 1 makes the instrumental louder."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def mask(self, magnitude: torch.Tensor) -> torch.Tensor:
        return torch.full_like(magnitude, self.value)


def tiny_weights(folder: Path, *stems: str) -> Path:
    """Untrained ones, that answer with these stems, by default with the instrumental."""
    torch.manual_seed(0)
    meta = META.model_copy(update={"head": HeadSpec(stems=stems)}) if stems else META
    save_weights(folder / "weights.safetensors", build(meta.model, meta.stft.bins, meta.head).state_dict(), meta)
    return folder / "weights.safetensors"


def write_song(
    path: Path, rate_hz: int = RATE_HZ, channels: int = 2, seconds: float = 1.5, seed: int = 0, subtype: str = "PCM_16"
) -> np.ndarray:
    """A song of noise `[sample, channel]`, as it is read."""
    signal = 0.2 * np.random.default_rng(seed).standard_normal((int(rate_hz * seconds), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, signal, rate_hz, subtype)
    return soundfile.read(path, always_2d=True)[0]


CODED = {
    "a.mka": ("matroska", "aac"), "a.webm": ("webm", "libopus"), "a.aac": ("adts", "aac"), "a.caf": ("caf", "alac"),
    "a.wma": ("asf", "wmav2"), "a.ts": ("mpegts", "aac"), "a.w64": ("w64", "pcm_f32le"), "a.m4a": ("ipod", "aac"),
    "a.mp4": ("mp4", "alac"), "a.mp3": ("mp3", "libmp3lame"), "a.opus": ("ogg", "libopus"),
    "a.aiff": ("aiff", "pcm_s16be"), "a.au": ("au", "pcm_s16be"), "a.wv": ("wv", "wavpack"),
    "a.tta": ("tta", "tta"), "a.mov": ("mov", "pcm_s24le"), "a.oga": ("ogg", "flac"),
}  # fmt: skip
"""Name of a file → FFmpeg's container and codec."""


def write_coded(path: Path, container: str, codec: str, seconds: float = 0.4) -> None:
    """A song of noise at 48 kHz."""
    signal = (0.2 * np.random.default_rng(1).standard_normal((2, int(48_000 * seconds)))).astype(np.float32)
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=48_000, layout="stereo")
        stream.bit_rate = 128_000
        coder = stream.codec_context
        kind = (coder.codec.audio_formats or [av.AudioFormat("fltp")])[0]
        resampler = av.AudioResampler(kind, "stereo", 48_000, frame_size=coder.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(signal, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 48_000, 0
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))


def run_command(*arguments: object) -> tuple[BaseException | None, str, str]:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exception, result.stdout, result.stderr


def visible(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
