"""What a stem is of its song, and what a song is for in a data set."""

from typing import Literal, get_args

from vr_core.specs.slots import Stem as Role

__all__ = ["ROLES", "SPLITS", "USUAL_SPLIT", "Role", "Split"]

ROLES: tuple[Role, ...] = get_args(Role)
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
USUAL_SPLIT = "valid=0.1,test=0.1,seed=0"
"""Of songs of which nothing is said."""
