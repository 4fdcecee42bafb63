"""What can be wrong with music and data sets.

DataError               the input is not as expected: change it, or the command
└── AudioError          one audio file cannot be used; preparation goes on with the others
    ├── UnreadableAudioError    missing, no permission, or no format that we decode
    ├── EmptyAudioError         no bytes or no samples
    ├── TruncatedAudioError     shorter than its header says, or damaged in the middle
    ├── NonFiniteAudioError     NaN or infinite samples
    ├── FullScaleError          floats far beyond full scale: at the scale of integers
    └── AudioTooLongError       longer than the limit, or a header that says so
DataError
├── ManifestError       the manifest is missing, damaged or of another version, or the data set does not fit the request
├── ShardError          a shard is missing, cut short, damaged or of another kind than its manifest says
├── PrepareError        preparation cannot start, or could use nothing
│   └── NothingUsable       no song can be used, each for its reason
├── FormatLimitError    a kind of audio file cannot hold what would be written
└── SongError           one song cannot be used; preparation goes on with the others
AudioWriteError         an audio file could not be written (a Failure)
WorkerError             a process of the preparation was killed (a Failure)
NoSpaceError            a shard or a manifest could not be written: the disk is full (a StorageError)
"""

from collections.abc import Iterable

from dataprep.refusals import Refused, alike
from vr_core.errors import Failure, StorageError, UserError


class DataError(UserError):
    """Music or a data set that is not as expected."""


class AudioError(DataError):
    """One audio file cannot be used."""


class UnreadableAudioError(AudioError):
    """The file is missing, may not be read, or is in no format that we decode."""


class EmptyAudioError(AudioError):
    """The file has no bytes, or no samples."""


class TruncatedAudioError(AudioError):
    """The file holds fewer samples than its header says, or the decoder fails in the middle."""


class NonFiniteAudioError(AudioError):
    """The file holds NaN or infinite samples."""


class FullScaleError(AudioError):
    """Float samples that are far beyond full scale: at the scale of integers, most likely."""


class AudioTooLongError(AudioError):
    """The audio is longer than the limit, or its header says so."""


class AudioWriteError(Failure):
    """An audio file could not be written whole; nothing was left behind."""


class ManifestError(DataError):
    """The manifest is missing, damaged or of another version, or the data set does not fit what is asked of it."""


class DamagedManifest(ManifestError):
    """A manifest that is not as it was written."""


class ShardError(DataError):
    """A shard is missing, cut short, damaged, or of another kind than its manifest says."""


class PrepareError(DataError):
    """Preparation cannot start as asked, or nothing could be used."""


class NothingUsable(PrepareError):
    """No song can be used; `reasons` has all that is wrong, and the message the most frequent of it."""

    def __init__(self, what: str, refused: Iterable[Refused] = (), remedy: str = "") -> None:
        self.reasons = alike(refused)
        first = f"; {self.reasons[0].first.why}" if self.reasons else ""
        others = f" (the most frequent of {len(self.reasons)} reasons)" if self.reasons[1:] else ""
        super().__init__(f"{what}{first}{others}{f'; {remedy}' if remedy else ''}")


class FormatLimitError(DataError):
    """A kind of audio file cannot hold what would be written; known before it is tried."""


class SongError(DataError):
    """One song cannot be used; preparation goes on with the others."""


class NoSpaceError(StorageError):
    """The disk is full; what was half-written is gone and what was there before is untouched."""


class WorkerError(Failure):
    """A process of the preparation was killed; finished groups of songs are kept."""
