"""What a model answers: the schema, without torch. The objective asks for it, and a weights file says it."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vr_core.config import Spec

Kind = Literal["mask", "complex_mask", "amplitude", "compressed", "logits"]
STEM_LETTERS = 40
StemName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 _-]*$", max_length=STEM_LETTERS)]
"""It stands in the names of files."""


class HeadSpec(Spec):
    """One answer for each stem, `[item, stem, channel, bin, frame]`; of `logits`, `[item, frame, class]`."""

    kind: Kind = "mask"
    """`mask`: in (0, 1), times the mixture. `complex_mask`: any complex number, times the mixture. `amplitude`: the
    stem's magnitude. `compressed`: the same on the scale that networks see. `logits`: of classes of each frame."""
    stems: tuple[StemName, ...] = Field(("instrumental",), min_length=1)
    classes: Annotated[int, Field(ge=0)] = 0
    """Of `logits` alone."""

    @property
    def planes(self) -> int:
        """Real numbers of one value."""
        return 2 if self.kind == "complex_mask" else 1

    @property
    def maps(self) -> int:
        """Real numbers of each bin of each channel."""
        return self.planes * len(self.stems)

    @model_validator(mode="after")
    def _classes(self) -> "HeadSpec":
        if (self.kind == "logits") != (self.classes > 0):
            raise ValueError(f"classes {self.classes}: logits have at least one class, and nothing else has any")
        return self


MASK = HeadSpec()
"""The answer of every weights file that says nothing else."""
