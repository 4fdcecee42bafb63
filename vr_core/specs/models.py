"""What a model is made from: the schema, without torch.

Reading, checking and submitting a recipe imports none.
"""

import itertools
import math
from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vr_core.config import Spec
from vr_core.specs.bounds import Count, Positive
from vr_core.specs.fronts import AS_STORED, Front
from vr_core.specs.stft import StftSpec

BlockName = Literal["frame_transformer", "evolved", "evolved_decoder", "primer_ez", "primer"]
"""Blocks over frames (`vr_core/models/blocks/`)."""
Positions = Literal["relative", "rotary", "scalar"]
"""Positional encodings of attention (`vr_core/models/layers/attention.py`)."""


class EveryModelSpec(Spec):
    """What all models have."""

    name: str
    answer_scale: Positive = 1.0
    """Amplitudes are multiplied by this. Take 4 / n_fft: magnitudes are 1 at full scale, and most are hundreds of times
    smaller. At 1 the first steps overshoot, and all outputs stay zero."""


class FrameBlocksSpec(EveryModelSpec):
    """What models of blocks over frames have (`vr_core/models/blocks/`)."""

    heads: Count = 8
    max_distance_frames: Count = 512
    """Distances of this less one, and larger ones, share what is learned of them, so that any length works."""
    causal: bool = False
    """Whether a frame of the answer depends on that frame and earlier ones alone."""
    block: BlockName = "frame_transformer"
    positions: Positions = "relative"
    """Positional encoding of attention; `rotary` is the fastest (`tests/bench/README.md`)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @property
    def front(self) -> Front:
        """Magnitudes, as they are stored."""
        return Front(causal=self.causal)

    def require_divisible(self, width: int, feedforward: int) -> None:
        """Check that a block can be made of these sizes.

        Raises:
            ValueError: a size that must be a multiple of another is not.
        """
        multiple = width_multiple(self.block, self.positions, self.heads)
        if width % multiple:
            settings = f"{multiple} with block {self.block} and positions {self.positions}"
            wanted = "heads" if multiple == self.heads else settings
            raise ValueError(f"width must be a multiple of {wanted}, got width {width} and heads {self.heads}")
        parts = 8 if self.block in {"evolved", "evolved_decoder"} else 4
        if feedforward % parts:
            raise ValueError(f"feedforward must be a multiple of {parts} with block {self.block}, got {feedforward}")


class DenseFrameTransformerSpec(FrameBlocksSpec):
    """The stack of 2022 with its errors corrected; tokens are frames (`vr_core/models/dense_frame_transformer.py`)."""

    name: Literal["dense_frame_transformer"] = "dense_frame_transformer"
    width: Count = 256
    """Features of a frame inside the blocks; equal to the number of bins means no in- and out-projection."""
    blocks: Count = 4
    feedforward: Count = 1024

    @model_validator(mode="after")
    def _divisible(self) -> "DenseFrameTransformerSpec":
        self.require_divisible(self.width, self.feedforward)
        return self


def width_multiple(block: BlockName, positions: Positions, heads: int) -> int:
    """What all heads of a block divide, pairs of features of each where positions turn pairs."""
    both = math.lcm(heads, decoder_heads(heads)) if block == "evolved_decoder" else heads
    return both * (2 if positions == "rotary" else 1)


def decoder_heads(heads: int) -> int:
    """Of the first attention of the Evolved Transformer's decoder: twice as many, up to 16.

    tensor2tensor's evolved_transformer.py has this as `_capped_double_heads`; its decoder takes 16 at least.
    """
    return max(min(2 * heads, 16), heads)


class PlainStackSpec(EveryModelSpec):
    """A baseline without attention: what any gain of the transformer is measured against."""

    name: Literal["plain_stack"] = "plain_stack"
    width: Count = 256
    blocks: Count = 3
    kernel_frames: Count = 11
    expansion: Count = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def front(self) -> Front:
        """Magnitudes, as they are stored."""
        return Front(receptive_frames=1 + self.blocks * (self.kernel_frames - 1))


class RoformerSpec(EveryModelSpec):
    """What all band-split RoFormers have (`vr_core/models/roformer.py`)."""

    width: Count = 384
    blocks: Count = 6
    """Each is a transformer over time and one over bands."""
    heads: Count = 8
    head_width: Annotated[int, Field(gt=0, multiple_of=2)] = 64
    expansion: Count = 4
    mask_hidden_layers: Count = 1
    """Of each band's mask; its width is `mask_expansion` times that of the model."""
    mask_expansion: Count = 4
    zero_dc: bool = True
    """Whether bin 0 of every mask is zero."""
    stft: StftSpec = StftSpec(hop=441)
    """Its own, whatever a data set is stored with; the sample rate must be the data set's."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    recompute: bool = False
    """Compute each transformer again in the backward pass: a third more time, and memory of one of them at a time."""

    @property
    def front(self) -> Front:
        """Complex spectrograms with their Nyquist bin."""
        return Front(self.stft, nyquist=True, phase=True)

    @abstractmethod
    def bands_of(self, bins: int) -> tuple[range, ...]:
        """The bins of each band, of so many bins from 0 Hz to the Nyquist frequency.

        Raises:
            ValueError: no such bands can be made of so many bins.
        """

    @model_validator(mode="after")
    def _bands(self) -> "RoformerSpec":
        self.bands_of(self.front.bins_on(self.stft))
        return self


_BANDS = (*[2] * 24, *[4] * 12, *[12] * 8, *[24] * 8, *[48] * 8, 128, 129)
"""Bins of the 62 bands that all published files of an STFT of 2,048 have."""


class BsRoformerSpec(RoformerSpec):
    """Band-split RoFormer (`vr_core/models/bs_roformer.py`)."""

    name: Literal["bs_roformer"] = "bs_roformer"
    bands: tuple[Count, ...] = ()
    """Bins of each band; by default the published 62, or such with the same borders at another size of STFT."""

    def bands_of(self, bins: int) -> tuple[range, ...]:
        """As `RoformerSpec.bands_of`: one band after the other."""
        if self.bands and sum(self.bands) != bins:
            raise ValueError(f"model.bands: add up to {sum(self.bands)} bins, the STFT has {bins}")
        ends = list(itertools.accumulate(self.bands or _BANDS))
        ends = [0, *(round(end * bins / ends[-1]) for end in ends)]
        return tuple(range(a, b) for a, b in itertools.pairwise(ends) if b > a)


class MelRoformerSpec(RoformerSpec):
    """Mel-band RoFormer (`vr_core/models/mel_roformer.py`)."""

    name: Literal["mel_roformer"] = "mel_roformer"
    mel_bands: Count = 60
    mask_hidden_layers: Count = 2

    def bands_of(self, bins: int) -> tuple[range, ...]:
        """As `RoformerSpec.bands_of`: a bin is in one band or in two.

        A band is where a triangular mel filter is above zero: between two of `mel_bands` + 2 frequencies that are
        equally far apart on Slaney's scale (Auditory Toolbox, 1998; what librosa calls `htk=False`), the first 0 Hz
        and the last Nyquist's. The outer two bins count as inside. The scale is written out here, because importing
        librosa takes longer than all else that reads a recipe.
        """
        nyquist_hz = self.stft.sample_rate_hz / 2
        edges = [_hz(_mel(nyquist_hz) * i / (self.mel_bands + 1)) for i in range(1, self.mel_bands + 1)]
        places = [edge * (bins - 1) / nyquist_hz for edge in edges]
        starts = [0, *(math.floor(place) + 1 for place in places[:-1])]
        ends = [*(math.ceil(place) for place in places[1:]), bins]
        bands = tuple(range(a, b) for a, b in zip(starts, ends, strict=True))
        if not all(bands):
            raise ValueError(f"model.mel_bands: {self.mel_bands} are too many for {bins} bins: some have none")
        return bands


_LINEAR_TO_HZ, _LINEAR_TO_MEL = 1000.0, 15.0
_MELS_A_NEPER = 27 / math.log(6.4)


def _mel(hz: float) -> float:
    if hz < _LINEAR_TO_HZ:
        return hz * _LINEAR_TO_MEL / _LINEAR_TO_HZ
    return _LINEAR_TO_MEL + _MELS_A_NEPER * math.log(hz / _LINEAR_TO_HZ)


def _hz(mel: float) -> float:
    if mel < _LINEAR_TO_MEL:
        return mel * _LINEAR_TO_HZ / _LINEAR_TO_MEL
    return _LINEAR_TO_HZ * math.exp((mel - _LINEAR_TO_MEL) / _MELS_A_NEPER)


class CascadedNetSpec(EveryModelSpec):
    """The network of tsurumeso's vocal-remover v5 and v6 (`vr_core/models/cascaded_net.py`)."""

    name: Literal["cascaded_net"] = "cascaded_net"
    channels: Annotated[int, Field(gt=0, multiple_of=4)] = 32
    """Of the last stage; published are 32 and 96."""
    lstm: Annotated[int, Field(gt=0, multiple_of=4)] = 128
    """Of both directions; published are 128 and 512."""
    norm: Literal["item", "frozen_batch"] = "item"
    """`frozen_batch`: by the statistics that a published file holds, which stay as they are."""
    phase: bool = False
    """Whether it hears complex numbers."""
    auxiliary: bool = False
    """Whether a file holds the weights of an auxiliary output, as those of v5 do; nothing computes it."""
    stft: StftSpec | None = None
    """Its own, with the Nyquist bin; by default the data set's without."""
    context_frames: Annotated[int, Field(ge=0)] = 64
    """Heard at either side of a window in separation, and not answered."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @property
    def front(self) -> Front:
        """Numbers over the peak of the song."""
        return Front(
            self.stft, nyquist=self.stft is not None, phase=self.phase, context_frames=self.context_frames,
            scale="song_peak",
        )  # fmt: skip


class SeedFrameTransformerSpec(EveryModelSpec):
    """The stack of 2022 as it was published, its errors kept (`vr_core/models/seed_frame_transformer.py`)."""

    name: Literal["seed_frame_transformer"] = "seed_frame_transformer"
    blocks: Count = 2
    heads: Count = 8
    feedforward: Annotated[int, Field(gt=0, multiple_of=4)] = 3072
    crop_frames: Count = 1024
    """Most frames that it hears at once; `batch.crop_frames` is this many."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @property
    def front(self) -> Front:
        """Magnitudes, as they are stored."""
        return AS_STORED


class UNetSpec(EveryModelSpec):
    """The U-Net of Jansson et al. 2017 (`vr_core/models/unet.py`)."""

    name: Literal["unet"] = "unet"
    channels: Count = 16
    """Of the first layer; each further one has twice as many."""
    levels: Annotated[int, Field(ge=2, le=8)] = 6
    """Halvings of bins and frames."""
    scale: Literal["log", "song_peak"] = "log"
    """What it hears: magnitudes on a logarithmic scale, or over the peak of the song as in the paper."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5

    @property
    def front(self) -> Front:
        """Magnitudes, as they are stored or over the song's peak."""
        return Front(scale="none" if self.scale == "log" else "song_peak")


class FrameUNetSpec(FrameBlocksSpec):
    """A U-Net over bins with blocks over frames at its levels (`vr_core/models/frame_unet.py`)."""

    name: Literal["frame_unet"] = "frame_unet"
    channels: Count = 8
    """Maps of the first level; level l has l + 1 times as many."""
    levels: Annotated[int, Field(ge=1, le=8)] = 4
    """Halvings of the bins."""
    block_bins: Count = 1024
    """Levels of more bins than this have no block."""
    expansion: Count = 2
    """Width of a block's feed-forward as a multiple of its bins."""


class _MultiBandDenseSpec(EveryModelSpec):
    """What the multi-band dense nets have (`vr_core/models/multi_band_dense.py`)."""

    stft: StftSpec | None = None
    """Its own, with the Nyquist bin; by default the data set's without."""

    @property
    def front(self) -> Front:
        """Magnitudes, as they are stored or of its own STFT."""
        return Front(self.stft, nyquist=self.stft is not None)


class MMDenseNetSpec(_MultiBandDenseSpec):
    """MMDenseNet (`vr_core/models/mmdensenet.py`), of 0.34 million parameters."""

    name: Literal["mmdensenet"] = "mmdensenet"


class MMDenseLstmSpec(_MultiBandDenseSpec):
    """MMDenseLSTM (`vr_core/models/mmdenselstm.py`), of 1.4 million parameters."""

    name: Literal["mmdenselstm"] = "mmdenselstm"


ModelSpec = Annotated[
    BsRoformerSpec
    | CascadedNetSpec
    | DenseFrameTransformerSpec
    | FrameUNetSpec
    | MelRoformerSpec
    | MMDenseLstmSpec
    | MMDenseNetSpec
    | PlainStackSpec
    | SeedFrameTransformerSpec
    | UNetSpec,
    Field(discriminator="name"),
]
