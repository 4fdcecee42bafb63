"""Named configurations: what people train and share, with the settings that make up its size. No torch."""

from dataclasses import dataclass
from typing import Any

from vr_core.specs.heads import MASK, HeadSpec
from vr_core.specs.models import (
    BlockName,
    BsRoformerSpec,
    CascadedNetSpec,
    DenseFrameTransformerSpec,
    FrameUNetSpec,
    MelRoformerSpec,
    MMDenseLstmSpec,
    MMDenseNetSpec,
    ModelSpec,
    PlainStackSpec,
    SeedFrameTransformerSpec,
    UNetSpec,
)
from vr_core.specs.stft import StftSpec


@dataclass(frozen=True)
class Figures:
    """Of one configuration, as `vr_core.models.figures.figures_of` counts them."""

    parameters: int
    """With the fixed numbers that published files hold among them."""
    forward_flop_per_s: float
    """Products and sums of a forward pass, for a second of stereo audio."""
    item_bytes: int
    """Kept in float32 for the backward pass of an item of `crop_s`."""
    recomputed_bytes: int | None = None
    """The same with `model.recompute`; None where the model has no such key."""


@dataclass(frozen=True)
class Configuration:
    """A model of a certain size."""

    about: str
    """Whose it is, in a few words."""
    model: ModelSpec
    figures: Figures
    head: HeadSpec = MASK
    crop_s: float = 8.0
    """Seconds of audio of an item, as it is usually trained."""

    @property
    def stft(self) -> StftSpec:
        """Of what the model hears: its own, else the usual one of a data set."""
        return self.model.front.stft_on(StftSpec())

    @property
    def crop_frames(self) -> int:
        """Of what the model hears in `crop_s`."""
        return round(self.crop_s * self.stft.sample_rate_hz / self.stft.hop)


def _tsurumeso(**settings: Any) -> CascadedNetSpec:
    return CascadedNetSpec(norm="frozen_batch", stft=StftSpec(), **settings)


_COMPLEX = HeadSpec(kind="complex_mask")
_SIX = HeadSpec(kind="complex_mask", stems=("bass", "drums", "other", "vocals", "guitar", "piano"))
_BOTH = HeadSpec(stems=("instrumental", "vocals"))
_AMPLITUDE = HeadSpec(kind="amplitude")
_OF_128, _OF_256, _OF_512, _OF_1024 = (frames * 1024 / 44_100 for frames in (128, 256, 512, 1024))
"""Seconds of so many frames of the usual STFT."""

_OF_THE_SEED = {
    2: Figures(33_436_177, 3.39e09, 423_747_584),
    4: Figures(66_872_352, 6.79e09, 881_082_368),
    8: Figures(133_744_714, 1.36e10, 1_946_845_184),
}

_HOME: dict[str, Any] = {"width": 1024, "blocks": 8, "heads": 16, "feedforward": 3072}
_OF_BLOCKS: tuple[tuple[BlockName, str, Figures], ...] = (
    ("evolved", "cells of the Evolved Transformer's encoder", Figures(189_327_434, 1.70e10, 868_425_728)),
    ("evolved_decoder", "those of its decoder, causal", Figures(180_951_114, 1.70e10, 1_100_062_720)),
    ("primer_ez", "blocks of Primer-EZ", Figures(109_226_058, 1.01e10, 608_280_576)),
    ("primer", "blocks of Primer", Figures(109_201_482, 1.01e10, 574_726_144)),
)

CONFIGURATIONS: dict[str, Configuration] = {
    "bs_roformer/192x6": Configuration(
        "a small one", BsRoformerSpec(width=192), Figures(24_591_340, 1.72e11, 15_546_497_028, 2_019_491_844), _COMPLEX
    ),
    "bs_roformer/256x12": Configuration(
        "the community's, one stem",
        BsRoformerSpec(width=256, blocks=12),
        Figures(51_049_484, 4.49e11, 35_267_991_556, 3_041_648_644),
        _COMPLEX,
    ),
    "bs_roformer/256x12-six": Configuration(
        "the community's, six stems",
        BsRoformerSpec(width=256, blocks=12),
        Figures(174_656_564, 4.74e11, 36_480_599_556, 4_254_256_644),
        _SIX,
    ),
    "bs_roformer/384x6": Configuration(
        "the paper's size", BsRoformerSpec(), Figures(74_532_652, 3.69e11, 22_441_293_828, 3_257_507_844), _COMPLEX
    ),
    "bs_roformer/384x12": Configuration(
        "the community's usual size",
        BsRoformerSpec(blocks=12),
        Figures(98_194_828, 7.28e11, 44_283_287_556, 4_171_735_044),
        _COMPLEX,
    ),
    "bs_roformer/512x12": Configuration(
        "the community's large one",
        BsRoformerSpec(width=512, blocks=12),
        Figures(159_758_092, 1.09e12, 53_298_583_556, 5_301_821_444),
        _COMPLEX,
    ),
    "mel_roformer/384x6": Configuration(
        "the community's usual size",
        MelRoformerSpec(),
        Figures(228_202_852, 3.88e11, 23_715_003_872, 3_523_664_352),
        _COMPLEX,
    ),
    "mel_roformer/384x12": Configuration(
        "the community's large one",
        MelRoformerSpec(blocks=12),
        Figures(251_869_636, 7.35e11, 46_626_655_712, 4_408_400_352),
        _COMPLEX,
    ),
    "cascaded_net/v5": Configuration(
        "tsurumeso's vocal-remover",
        _tsurumeso(auxiliary=True),
        Figures(14_740_882, 2.28e10, 1_437_081_960),
        crop_s=_OF_256,
    ),
    "cascaded_net/v5-wide": Configuration(
        "tsurumeso's wide one",
        _tsurumeso(auxiliary=True, channels=96, lstm=512),
        Figures(129_170_978, 2.04e11, 4_276_622_312),
        crop_s=_OF_256,
    ),
    "cascaded_net/v5-complex": Configuration(
        "tsurumeso's, hears phase",
        _tsurumeso(auxiliary=True, phase=True),
        Figures(14_742_866, 2.3e10, 1_458_065_768),
        _COMPLEX,
        crop_s=_OF_256,
    ),
    "cascaded_net/v6": Configuration(
        "tsurumeso's, two stems", _tsurumeso(), Figures(14_740_898, 2.28e10, 1_441_278_312), _BOTH, crop_s=_OF_256
    ),
    "dense_frame_transformer/songs": Configuration(
        "of the recipes songs-*, for 2 cores",
        DenseFrameTransformerSpec(width=256, blocks=3, heads=4, feedforward=768, max_distance_frames=256, dropout=0),
        Figures(5_641_688, 4.84e08, 18_239_488),
        crop_s=_OF_128,
    ),
    "dense_frame_transformer/home": Configuration(
        "of the recipes home-*",
        DenseFrameTransformerSpec(**_HOME),
        Figures(141_062_218, 1.29e10, 809_705_472),
        crop_s=_OF_512,
    ),
    "dense_frame_transformer/home-causal": Configuration(
        "the same, causal",
        DenseFrameTransformerSpec(**_HOME, causal=True),
        Figures(136_876_106, 1.25e10, 829_595_648),
        crop_s=_OF_512,
    ),
    **{
        f"dense_frame_transformer/home-{block.replace('_', '-')}": Configuration(
            about,
            DenseFrameTransformerSpec(**_HOME | {"feedforward": 4096}, block=block, causal=block == "evolved_decoder"),
            figures,
            crop_s=_OF_512,
        )
        for block, about, figures in _OF_BLOCKS
    },
    "frame_unet/songs": Configuration(
        "of the recipe songs-frame-unet, for 2 cores",
        FrameUNetSpec(channels=4, heads=4, block_bins=256, max_distance_frames=128, dropout=0),
        Figures(2_394_703, 4.26e08, 105_743_360),
        crop_s=_OF_128,
    ),
    "frame_unet/home": Configuration(
        "of the recipe home-frame-unet",
        FrameUNetSpec(channels=16, levels=6, expansion=3),
        Figures(49_015_045, 8.77e09, 2_164_416_512),
        crop_s=_OF_512,
    ),
    "mmdensenet/paper": Configuration(
        "multi-band dense net",
        MMDenseNetSpec(stft=StftSpec(), answer_scale=0.002),
        Figures(339_468, 6.4e09, 1_045_188_148),
        _AMPLITUDE,
        crop_s=_OF_256,
    ),
    "mmdenselstm/paper": Configuration(
        "the same with LSTMs",
        MMDenseLstmSpec(stft=StftSpec(n_fft=4096), answer_scale=0.001),
        Figures(1_370_805, 7.35e09, 1_777_023_156),
        _AMPLITUDE,
        crop_s=_OF_256,
    ),
    "unet/paper": Configuration(
        "the first U-Net for songs", UNetSpec(), Figures(9_823_010, 1.04e09, 30_736_472), crop_s=_OF_128
    ),
    **{
        f"seed_frame_transformer/{blocks}": Configuration(
            "of 2022-05-10, its errors kept", SeedFrameTransformerSpec(blocks=blocks), figures, crop_s=_OF_1024
        )
        for blocks, figures in _OF_THE_SEED.items()
    },
    "plain_stack/256x3": Configuration(
        "a baseline without attention", PlainStackSpec(), Figures(2_640_384, 2.27e08, 7_085_056), crop_s=_OF_128
    ),
}
