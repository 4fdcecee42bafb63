"""What a model answers: the schema, without torch. The objective asks for it, and a weights file says it."""

from typing import Annotated, Literal

from pydantic import Field

from vr_core.config import Spec

Kind = Literal["mask", "complex_mask", "amplitude"]
StemName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9 _-]*$", max_length=40)]
"""It stands in the names of files."""


class HeadSpec(Spec):
    """One answer for each stem, `[item, stem, channel, bin, frame]`."""

    kind: Kind = "mask"
    """`mask`: in (0, 1), times the mixture. `complex_mask`: any complex number, times the mixture. `amplitude`: the
    stem's magnitude."""
    stems: tuple[StemName, ...] = Field(("instrumental",), min_length=1)

    @property
    def planes(self) -> int:
        """Real numbers of one value."""
        return 2 if self.kind == "complex_mask" else 1

    @property
    def maps(self) -> int:
        """Real numbers of each bin of each channel."""
        return self.planes * len(self.stems)


MASK = HeadSpec()
"""The answer of every weights file that says nothing else."""
