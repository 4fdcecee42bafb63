"""From an objective's spec to the objective: one literal dict, the YAML tag is the key."""

from collections.abc import Callable
from typing import Any

from vr_core.objectives.masked_frames import MaskedFrames
from vr_core.objectives.objective import Objective
from vr_core.objectives.separate import Separate
from vr_core.specs.objectives import ObjectiveSpec

OBJECTIVES: dict[str, Callable[[Any], Objective]] = {
    "masked_frames": MaskedFrames,
    "separate": Separate,
}


def objective_of(spec: ObjectiveSpec) -> Objective:
    """The objective of `spec`."""
    return OBJECTIVES[spec.name](spec)
