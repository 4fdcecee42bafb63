"""One stream of an audio file, and what is known of it before it is decoded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Decoder = Literal["libsndfile", "ffmpeg"]


@dataclass(frozen=True)
class AudioSource:
    """One audio stream of a file."""

    path: Path
    stream: int = 0
    """Which audio stream of an mp4 (a `.stem.mp4` has five)."""

    def __str__(self) -> str:
        return f"{self.path}:{self.stream}" if self.stream else str(self.path)


@dataclass(frozen=True)
class Part:
    """A piece of a file that a decoder is given as if it were a file of its own."""

    start: int
    """Offset of its first byte."""
    end: int
    """Offset behind its last byte."""
    patches: tuple[tuple[int, bytes], ...] = ()
    """Bytes of the header that are read otherwise than they stand there: offset in the part, bytes."""


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says, and what is behind it."""

    sample_rate_hz: int
    channels: int
    samples: int | None
    """Per channel, at the file's own rate. None where the header does not say."""
    exact: bool
    """False where `samples` is a guess from the bit rate (mp3 without a Xing header)."""
    format: str
    decoder: Decoder
    slack_samples: int = 0
    """How many samples fewer than `samples` still are the whole file: the padding of coded packets."""
    padded: bool = False
    """Whether what comes within `slack_samples` behind `samples` is the encoder's padding, and left out."""
    parts: tuple[Part, ...] = ()
    """Pieces that are decoded one after the other; none where the file is read as it stands."""
    stated_samples: int | None = None
    """What the header states, where the file goes on behind that; `samples` then counts all that is there."""
    refused_by: Decoder | None = None
    """A decoder that refuses this file, or stops in the middle, where the other reads it whole."""


def one_line(error: BaseException) -> str:
    """What a library says went wrong."""
    text = str(getattr(error, "error_string", "") or getattr(error, "strerror", "") or error)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
