"""What can be wrong with music and data sets.

DataError               the input is not as expected: change it, or the command
└── AudioError          one audio file cannot be used; preparation goes on with the others
    ├── UnreadableAudioError    missing, no permission, or no format that we decode
    ├── EmptyAudioError         no bytes or no samples
    ├── TruncatedAudioError     shorter than its header says, or damaged in the middle
    ├── NonFiniteAudioError     NaN or infinite samples
    └── AudioTooLongError       longer than the limit, or a header that says so
AudioWriteError         an audio file could not be written (a Failure)
"""

from vr_core.errors import Failure, UserError


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


class AudioTooLongError(AudioError):
    """The audio is longer than the limit, or its header says so."""


class AudioWriteError(Failure):
    """An audio file could not be written whole; nothing was left behind."""
