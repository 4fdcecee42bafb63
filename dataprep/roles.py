"""What a stem is of its song, and what a song is for in a data set."""

from typing import Literal, get_args

Role = Literal["vocals", "instrumental", "mixture"]
ROLES: tuple[Role, ...] = get_args(Role)
Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
