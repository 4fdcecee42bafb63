"""Which architecture a checkpoint is of: from the names and shapes of its tensors alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vr_core.errors import ConfigError, WeightsError
from vr_core.importing.cascaded_net import cascaded_net
from vr_core.importing.layout import Layout, NotBuilt, Shapes
from vr_core.importing.roformers import bs_roformer, mel_roformer
from vr_core.importing.said import Said
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import ModelSpec
from vr_core.specs.stft import StftSpec

LAYOUTS: tuple[Callable[[Shapes, Said], Layout | None], ...] = (bs_roformer, mel_roformer, cascaded_net)
"""Each answers None for files of others. A new one is a file here and a name in this line."""
VARIANTS = {
    "segm": "HyperACE, a RoFormer with a segmentation branch",
    "value_residual": "a RoFormer with value residuals",
    "to_learned_value": "a RoFormer with value residuals",
    "hyper_conn": "a RoFormer with hyper-connections",
    "pope": "a RoFormer with PoPE positions",
    "mamba": "a Mamba network",
    "A_log": "a Mamba network",
    "tencoder": "HTDemucs, a hybrid of waveform and spectrogram",
    "crosstransformer": "HTDemucs, a hybrid of waveform and spectrogram",
    "separation_net": "SCNet",
    "tfc_tdf": "MDX23C (TFC-TDF)",
    "encoder_blocks": "MDX23C (TFC-TDF)",
    "conformer": "a Conformer network",
    "stg1_low_band_net.enc1": "tsurumeso's vocal-remover before v5, or a VR model of UVR",
}
"""A part of a tensor's name → what network has it; these are named in the refusal, and not built."""


@dataclass(frozen=True)
class Recognised:
    """What is written into the weights file."""

    model: ModelSpec
    head: HeadSpec
    stft: StftSpec
    crop_frames: int
    """Of the trainer's chunks, or what the layout has by default."""
    notes: tuple[str, ...]
    """What was assumed."""


def recognise(shapes: Shapes, said: Said, origin: str) -> Recognised:
    """The model of a checkpoint with tensors of these shapes.

    Args:
        shapes: by name.
        said: beside the tensors.
        origin: what messages call the file.

    Raises:
        WeightsError: of an architecture that vr has not, which is named where it is known.
        ConfigError: `said` contradicts the tensors, or says too little.
    """
    if any("lora" in name.lower() for name in shapes):
        raise WeightsError(
            f"{origin}: holds low-rank factors (LoRA) beside or in place of weights; merge them with the program that "
            "trained them, and import what that writes"
        )
    for part, what in VARIANTS.items():
        if any(part in name for name in shapes):
            raise _not_built(origin, what)
    layout = _layout_of(shapes, said, origin)
    if layout is None:
        first = ", ".join(list(shapes)[:2])
        raise WeightsError(
            f"{origin}: of an architecture that vr does not know ({len(shapes)} tensors: {first} …); "
            "`vr models` lists what it does"
        )
    _require_agreement(layout.stated, said)
    if said.chunk_samples is not None and said.chunk_samples < layout.stft.n_fft:
        raise ConfigError(
            f"{said.origin}: a chunk of {said.chunk_samples} samples is shorter than a window of {layout.stft.n_fft}; "
            "give --chunk in samples, such as 352800 for 8 s"
        )
    return Recognised(
        layout.model, HeadSpec(kind=layout.head, stems=_stems(layout, said, origin)), layout.stft,
        layout.frames_of(said.chunk_samples), tuple(layout.notes),
    )  # fmt: skip


def _layout_of(shapes: Shapes, said: Said, origin: str) -> Layout | None:
    for of in LAYOUTS:
        try:
            found = of(shapes, said)
        except NotBuilt as error:
            raise _not_built(origin, str(error)) from None
        except (LookupError, ValueError, ZeroDivisionError):  # a tensor is missing, or of a size that no model has
            raise WeightsError(
                f"{origin}: begins like a {of.__name__}, and has other tensors than vr builds one of; give another "
                "file, or one that was trained with the usual settings"
            ) from None
        if found is not None:
            return found
    return None


def _not_built(origin: str, what: str) -> WeightsError:
    return WeightsError(f"{origin}: of {what}, which vr does not build; `vr models` lists what it does")


def _require_agreement(stated: Mapping[str, Any], said: Said) -> None:
    wrong = [
        f"{key} {said.model[key]!r}, the tensors have {value}"
        for key, value in stated.items()
        if key in said.model and said.model[key] != value
    ]
    if wrong:
        raise ConfigError(
            f"{said.origin}: is of another checkpoint: {'; '.join(wrong)}; give the file that belongs to it"
        )


def _stems(layout: Layout, said: Said, origin: str) -> tuple[str, ...]:
    stems = said.stems or layout.stems
    if stems is None:
        example = {1: "vocals", 2: "vocals,instrumental"}.get(layout.stem_count, "drums,bass,… for each")
        count = "1 stem" if layout.stem_count == 1 else f"{layout.stem_count} stems"
        raise ConfigError(
            f"{origin}: has {count} and does not say which; give its YAML with --config, or their names in the file's "
            f"order, such as --stems {example}"
        )
    if len(stems) != layout.stem_count:
        raise ConfigError(
            f"{origin}: is said to have {len(stems)} stems ({', '.join(stems)}), the tensors have {layout.stem_count}; "
            "give the YAML that belongs to it, or --stems"
        )
    return stems
