"""Where something is heard in a stem: vocals are silent for much of a song, and nothing is learned from that."""

import numpy as np

_BELOW_DB = 45.0
"""So much softer than a stem's loudest frame is silence: what a separator or a microphone leaves between two lines."""
_GAP_S = 0.5
"""A breath is no pause."""
_LEAST_S = 0.2
"""Shorter than this is a click."""

Run = tuple[int, int]
"""First frame, and the one after the last."""


def audible_runs(levels: np.ndarray, frame_s: float) -> tuple[Run, ...]:
    """Frames in which a stem is heard; none where it is silent throughout.

    Args:
        levels: energy of each frame, `[frame]`.
        frame_s: seconds from frame to frame.
    """
    if not levels.size or not levels.max() > 0:
        return ()
    loud = np.concatenate([[False], levels > levels.max() * 10 ** (-_BELOW_DB / 10), [False]])
    starts, ends = np.flatnonzero(~loud[:-1] & loud[1:]), np.flatnonzero(loud[:-1] & ~loud[1:])
    apart = starts[1:] - ends[:-1] >= _GAP_S / frame_s
    starts, ends = starts[np.append(True, apart)], ends[np.append(apart, True)]
    return tuple((int(a), int(b)) for a, b in zip(starts, ends, strict=True) if (b - a) * frame_s >= _LEAST_S)
