"""MMDenseNet (Takahashi and Mitsufuji 2017, arXiv:1706.09588): two bands, and all bins.

| net | first maps | k of its seven blocks | L | kernel, bins x frames |
|---|--:|---|---|---|
| low, bins 0 to 511 of 1,025 | 32 | 14, then 16 | 4 | 4 x 3 |
| high | 32 | 10 | 3 | 3 x 3 |
| all | 32 | 6 | 2, 2, 2, 4, 2, 2, 2 | 4 x 3 |
| last block | – | 4 | 2 | 2 x 1 |

339,468 parameters at 2,048/1,024 with the Nyquist bin, stereo, one stem. The paper answers with amplitudes
(`objective.mask: amplitude`), which are used as a ratio to the mixture, one at most. Its magnitudes are n_fft / 4 times
ours: `answer_scale: 0.002` makes up for that.
"""

from vr_core.models.multi_band_dense import MultiBandDense, NetShape, sections_of
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import MMDenseNetSpec

_SECTIONS = (512, 513)


class MMDenseNet(MultiBandDense):
    """Mixture magnitude in, masks or amplitudes out."""

    def __init__(self, spec: MMDenseNetSpec, bins: int, head: HeadSpec) -> None:
        low, high = sections_of(bins, _SECTIONS)
        super().__init__(
            bins, head, spec.front,
            bands=[
                (low, NetShape(32, (14, 16, 16, 16, 16, 16, 16), (4,) * 7, (4, 3))),
                (high, NetShape(32, (10,) * 7, (3,) * 7, (3, 3))),
            ],
            full=NetShape(32, (6,) * 7, (2, 2, 2, 4, 2, 2, 2), (4, 3)),
            final=(4, 2, (2, 1), False),
        )  # fmt: skip
