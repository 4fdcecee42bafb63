"""Whether a file is audio, by its first bytes."""

import re
from pathlib import Path

from dataprep.audio.decoding import mp3

_HEAD_BYTES = 4096
_MAGIC = re.compile(
    rb"(?:RIFF|RF64)....WAVE|RIFF....AVI |FORM....(?:AIF[FC]|8SVX)"
    rb"|fLaC|OggS|ID3|MPCK|MP\+|wvpk|TTA[12]|MAC |tBaK|ajkg|caff|\.snd|\.RMF|DSD |#!AMR|FLV\x01|Creative Voice File"
    rb"|riff\x2e\x91\xcf\x11"  # Wave64
    rb"|\x1a\x45\xdf\xa3"  # Matroska and webm
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11"  # ASF: wma
    rb"|\x0b\x77..[\x00-\xa4]|\x7f\xfe\x80\x01"  # AC-3, DTS
    rb"|....ftyp(?!hei[cfmsx]|hev[cmsx]|mif1|msf1|avi[fs]|crx )|....moov"  # mp4, and no picture
    rb"|\x47.{187}\x47.{187}\x47",  # MPEG transport stream
    re.DOTALL,
)
_ADTS = re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")


def looks_like_audio(path: Path) -> bool:
    """Whether the first 4 KiB of a file are those of audio, or of a film that may have some.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return bool(_MAGIC.match(head)) or mp3.begins(head) or _two_adts_frames(head)


def _two_adts_frames(head: bytes) -> bool:
    """A frame of raw AAC says how long it is, and the next begins there."""
    if not _ADTS.match(head) or len(head) < 7:
        return False
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length > 7 and bool(_ADTS.match(head, length))
