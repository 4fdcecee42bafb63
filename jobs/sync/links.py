"""How much passes between the ranks of a run in a second, measured at a start."""

import torch

from jobs.steps.world import World

_FIRST_BYTES, _SAMPLE_BYTES = 2**17, 8 * 2**20
_SAMPLE_S = 0.5
"""A sample takes no longer each way, where the first one says so."""


def links_bytes_per_s(world: World) -> list[float]:
    """What passes between each rank and rank 0 a second, there and back, one after the other; rank 0's is the best.

    8 MiB each way: a tenth of a second at 1 GbE, and enough for a connection to get up to its speed. Over a slow link
    less, by what a first small sample says.
    """
    measured = torch.zeros(world.size, dtype=torch.float64, device=world.device)
    for other in range(1, world.size):
        world.there_and_back_s(1, other)  # opens the connection
        first_s = world.there_and_back_s(_FIRST_BYTES, other)
        enough = 2 * _FIRST_BYTES * _SAMPLE_S / first_s if world.rank == 0 else 0
        size = world.of_first(torch.tensor(min(_SAMPLE_BYTES, max(_FIRST_BYTES, int(enough))), device=world.device))
        took_s = world.there_and_back_s(int(size), other)
        if world.rank == 0:
            measured[other] = 2 * int(size) / took_s
    world.of_first(measured)
    measured[0] = measured[1:].max()
    found: list[float] = measured.tolist()
    return found
