"""The stems of a song as streams of blocks: at any sample rate, and as many windows at once as a device holds."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray

from dataprep.audio.files import BLOCK_SAMPLES, regrouped
from dataprep.audio.resample import resample
from jobs.errors import NoMemory
from vr_core.audio.separate import WindowSpec, peak_magnitude, separate
from vr_core.audio.stems import given_stems
from vr_core.models.model import Model
from vr_core.weights import WeightsMeta

Block = NDArray[np.float32]
Open = Callable[[int], Iterable[Block]]
"""From a sample rate in Hz to a mixture from its start: `[2, sample]` blocks as `open_audio` cuts them."""


def stems_at(
    open_mixture: Open,
    rate_hz: int,
    model: Model,
    meta: WeightsMeta,
    wanted: Sequence[str],
    windows: WindowSpec,
    device: torch.device | str,
    report: Callable[[int], None] | None,
) -> Iterator[dict[str, Block]]:
    """The stems that are needed for `wanted` (`GivenStems.needed`), at `rate_hz`.

    At another rate than the model's, the one that keeps what the model does not hear is the mixture minus the resampled
    others that sum to it with that one.

    Args:
        open_mixture: the mixture; called once to three times, at the model's rate and at `rate_hz`.
        rate_hz: sample rate of the blocks.
        model: on `device`, in evaluation mode.
        meta: the model's description.
        wanted: stems that the model gives.
        windows: how to cut; fewer at once where memory does not hold as many.
        device: where to compute.
        report: called with samples, at the model's rate, that are done.

    Raises:
        NoMemory: the device had too little for a single window.
    """
    with _told(device):
        given, model_hz = given_stems(model.head.stems), meta.stft.sample_rate_hz
        needed, peak = given.needed(wanted), None
        if model.front.scale == "song_peak":
            peak = peak_magnitude(open_mixture(model_hz), meta.stft, nyquist=model.front.nyquist, device=device)
        blocks = _as_many_at_once_as_fit(
            lambda cut: separate(
                model, meta.stft, open_mixture(model_hz), cut, device, report, stems=wanted, song_peak=peak
            ),
            windows,
        )
        if rate_hz == model_hz:
            yield from blocks
            return
        heard = [stem for stem in needed if stem != given.keeper]
        together = resample(
            (np.concatenate([b[stem] for stem in heard]) for b in blocks), 2 * len(heard), model_hz, rate_hz
        )
        for mixed, resampled in zip_longest(open_mixture(rate_hz), regrouped(together, BLOCK_SAMPLES)):
            # Both ways of resampling round the length: the stems may end a few samples earlier or later than the song.
            if mixed is None:
                continue
            found = np.zeros((2 * len(heard), mixed.shape[1]), np.float32)
            if resampled is not None:
                end = min(found.shape[1], resampled.shape[1])
                found[:, :end] = resampled[:, :end]
            stems = {stem: found[2 * i : 2 * i + 2] for i, stem in enumerate(heard)}
            if given.keeper in needed:
                stems[given.keeper] = mixed
                for stem in (given.rest, *given.rest_of):
                    if stem != given.keeper:
                        stems[given.keeper] = stems[given.keeper] - stems[stem]
            yield stems


@contextlib.contextmanager
def _told(device: torch.device | str) -> Iterator[None]:
    """Where the block finds too little memory, say what needs less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_lack_of_memory(error):
            raise
        raise NoMemory(
            f"the memory of {device} does not hold what the model computes of a window; give a shorter --window-s"
        ) from error


def _as_many_at_once_as_fit(
    separated: Callable[[WindowSpec], Iterator[dict[str, Block]]], windows: WindowSpec
) -> Iterator[dict[str, Block]]:
    """The blocks of `separated`; with half as many windows at once, and again, where memory does not hold these."""
    while True:
        begun = False
        try:
            for block in separated(windows):
                begun = True
                yield block
            return
        except (RuntimeError, MemoryError) as error:
            if begun or windows.batch == 1 or not _is_lack_of_memory(error):
                raise
        windows = windows.model_copy(update={"batch": windows.batch // 2})


def _is_lack_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
