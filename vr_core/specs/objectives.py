"""What an objective is made from: the schema, without torch.

Reading, checking and submitting a recipe imports none.
"""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vr_core.config import Spec
from vr_core.specs.bounds import Count, Fraction, Positive
from vr_core.specs.heads import HeadSpec, Kind
from vr_core.specs.slots import Signals, Slot

Purpose = Literal["separation", "pretraining"]
"""What a model is good for that was trained with an objective: pretrained ones are where another training begins."""


class MaskedFramesSpec(Spec):
    """Pretraining: hide runs of frames of a mixture and predict their magnitudes."""

    purpose: ClassVar[Purpose] = "pretraining"
    looks_ahead: ClassVar[bool] = True
    """Whether an answer is predicted from later frames too."""
    name: Literal["masked_frames"] = "masked_frames"
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of tokens chosen; at least one an item."""
    token_frames: Count = 16
    """Width of a token: a chosen token hides this many neighbouring frames."""
    ones: Fraction = 0.8
    """Share of chosen tokens set to one, so that a mask times the input can carve out the answer."""
    noise: Fraction = 0.1
    """Share of chosen tokens replaced by uniform noise; what remains is left as it is."""

    @property
    def signals(self) -> Signals:
        """A mixture, as it is."""
        return Signals((Slot("mixture", "mixture"),), {"mixture": ("mixture",)})

    @property
    def head(self) -> HeadSpec:
        """A mask that gives back what was hidden."""
        return HeadSpec(stems=("mixture",))

    @model_validator(mode="after")
    def _shares(self) -> "MaskedFramesSpec":
        if self.ones + self.noise > 1:
            raise ValueError(f"ones + noise must be at most 1, got {self.ones} + {self.noise}")
        return self


LossName = Literal["magnitude", "magnitude_mse", "spectrum", "waveform", "multi_stft", "mel", "log_snr"]
"""Functions of `vr_core.objectives.losses`."""
WITHOUT_PHASE: frozenset[LossName] = frozenset({"magnitude", "magnitude_mse", "mel"})
"""Losses that compare magnitudes alone."""


TrainedStem = Literal["instrumental", "vocals"]
"""What labelled songs have."""


class SeparateSpec(Spec):
    """Fine-tuning: stems out of the mixture."""

    purpose: ClassVar[Purpose] = "separation"
    looks_ahead: ClassVar[bool] = False
    name: Literal["separate"] = "separate"
    mask: Literal["real", "complex", "amplitude"] = "real"
    """What the model answers. A complex mask also corrects the phase, which a real one takes from the mixture. An
    amplitude is the stem's magnitude itself, used as a ratio to the mixture in separation, one at most."""
    stems: Annotated[tuple[TrainedStem, ...], Field(min_length=1)] = ("instrumental",)
    """What the model is asked for; what they leave of the mixture is the rest."""
    loss: Literal["magnitude", "spectrum", "waveform"] = "magnitude"
    """L1 of magnitudes, of complex spectrograms (real and imaginary parts apart), or of samples."""
    losses: dict[LossName, Positive] = {}
    """Weights of losses that are added up; without any it is `loss` alone, with weight 1."""
    remix: Fraction = 0.8
    """Share of items whose vocals come from another song or place; the rest keep the song's own."""
    gain_db: Annotated[float, Field(ge=0, le=24)] = 6.0
    """Vocals are scaled by a gain drawn uniformly from ± this many decibels when remixed."""
    swap_channels: Fraction = 0.5
    """Share of items whose left and right are exchanged, drawn for each stem apart."""
    silent_vocals: Fraction = 0.02
    """Share of items without vocals: nothing to remove."""
    more_vocals: Fraction = 0.0
    """Share of items with vocals in which those of another song or place are heard as well."""
    stem_gain_db: Annotated[float, Field(ge=0, le=24)] = 0.0
    """Each stem is scaled by a gain drawn uniformly from ± this many decibels."""
    invert: Fraction = 0.0
    """Share of items in which a stem has the opposite polarity, drawn for each stem apart."""
    lose_channel: Fraction = 0.0
    """Share of items in which a stem is on the left alone, on the right alone or equal on both, for each stem apart."""
    tilt_db: Annotated[float, Field(ge=0, le=6)] = 0.0
    """Each stem's spectrum gets a slope drawn uniformly from ± this many decibels an octave, around 1 kHz."""

    @property
    def signals(self) -> Signals:
        """An instrumental, and vocals that are its own or another song's."""
        altered: dict[str, Any] = {
            "any_gain_db": self.stem_gain_db, "invert": self.invert, "lose_channel": self.lose_channel,
            "tilt_db": self.tilt_db,
        }  # fmt: skip
        instrumental = Slot("instrumental", "instrumental", swap_channels=self.swap_channels, **altered)
        vocals = Slot("vocals", "vocals", self.remix, self.gain_db, self.swap_channels, self.silent_vocals, **altered)
        more = replace(vocals, name="more_vocals", elsewhere=1.0, silent=1 - self.more_vocals, beside="vocals")
        sung = (vocals, more) if self.more_vocals else (vocals,)
        voices = tuple(slot.name for slot in sung)
        parts = {"instrumental": ("instrumental",), "vocals": voices}
        return Signals(
            (instrumental, *sung),
            {"mixture": ("instrumental", *voices), **{stem: parts[stem] for stem in self.stems}},
            phase=self.mask == "complex" or not {*(self.losses or {self.loss: 1})} <= WITHOUT_PHASE,
        )

    @property
    def head(self) -> HeadSpec:
        """One mask for each stem."""
        kinds: dict[str, Kind] = {"real": "mask", "complex": "complex_mask", "amplitude": "amplitude"}
        return HeadSpec(kind=kinds[self.mask], stems=self.stems)

    @model_validator(mode="after")
    def _each_once(self) -> "SeparateSpec":
        if len(set(self.stems)) < len(self.stems):
            raise ValueError(f"stems: each at most once, got {', '.join(self.stems)}")
        return self

    @model_validator(mode="after")
    def _one_way(self) -> "SeparateSpec":
        if self.losses and self.loss != "magnitude":
            raise ValueError(f"losses replaces loss: leave out loss {self.loss}, or give it a weight among losses")
        return self


ObjectiveSpec = Annotated[MaskedFramesSpec | SeparateSpec, Field(discriminator="name")]
