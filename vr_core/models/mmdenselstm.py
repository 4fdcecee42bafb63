"""MMDenseLSTM (Takahashi, Goswami and Mitsufuji 2018, arXiv:1805.02410): three bands and all bins, LSTMs beside blocks.

| net | first maps | k | L of each block | LSTM, units over both directions |
|---|--:|--:|---|---|
| low, 380 of 2,049 bins | 32 | 14 | 5, seven blocks | 128 at the bottom, 128 at the second block after it |
| middle, 640 | 32 | 4 | 4, seven blocks | 32 at the bottom |
| high, 1,029 | 32 | 2 | 1, five blocks | 8 at the bottom |
| all | 8 | 7 | 3, 3, 4, 5, 5, 5, 4, 3, 3 | 128 at the bottom, 128 at the third block after it |
| last block, dilated | – | 12 | 3 | – |

Kernels are 3 x 3. 1,370,805 parameters at 4,096/1,024 with the Nyquist bin, stereo, one stem. The LSTM is beside its
block, one of the three places that the paper tries. The paper's Wiener filter after all stems is not here. Amplitudes
as in `mmdensenet.py`, with `answer_scale: 0.001`.
"""

from vr_core.models.multi_band_dense import MultiBandDense, NetShape, sections_of
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import MMDenseLstmSpec

_SECTIONS = (380, 640, 1029)


class MMDenseLstm(MultiBandDense):
    """Mixture magnitude in, masks or amplitudes out."""

    def __init__(self, spec: MMDenseLstmSpec, bins: int, head: HeadSpec) -> None:
        low, middle, high = sections_of(bins, _SECTIONS)
        super().__init__(
            bins, head, spec.front,
            bands=[
                (low, NetShape(32, (14,) * 7, (5,) * 7, (3, 3), {3: 128, 5: 128})),
                (middle, NetShape(32, (4,) * 7, (4,) * 7, (3, 3), {3: 32})),
                (high, NetShape(32, (2,) * 5, (1,) * 5, (3, 3), {2: 8})),
            ],
            full=NetShape(8, (7,) * 9, (3, 3, 4, 5, 5, 5, 4, 3, 3), (3, 3), {4: 128, 7: 128}),
            final=(12, 3, (3, 3), True),
        )  # fmt: skip
