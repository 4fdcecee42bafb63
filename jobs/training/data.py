"""A run's data set: where it is, which rank has what of it on its own disk, and copies that are made meanwhile."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch

from dataprep.batches.locality import shard_names
from dataprep.batches.order import shards_read
from dataprep.batches.staging import BackgroundStaging
from dataprep.shards.dataset import Dataset
from jobs.recipe import Recipe, RecipeCacheSpec
from jobs.steps.world import World
from vr_core.errors import ConfigError


def require_data(recipe: Recipe) -> Path:
    """The folder of the recipe's data set.

    Raises:
        ConfigError: it names none.
    """
    if recipe.data is None:
        raise ConfigError("the recipe names no data set; add data=FOLDER")
    return recipe.data


def who_has_what(data: Dataset, recipe: Recipe, world: World) -> np.ndarray:
    """`[rank, shard]`: which shards of the data set each rank has on its own disk, as `StepCut` wants it.

    Raises:
        StorageError, ShardError: shards that the run reads cannot be read from here.
    """
    needed = shards_read(data.manifest, recipe.objective)
    local = data.require(needed).local
    # What the run does not read makes no difference between ranks.
    mine = [name in local or name not in needed for name in shard_names(data.manifest)]
    return world.gather(torch.tensor(mine, dtype=torch.uint8, device=world.device)).cpu().numpy().astype(bool)


def staging_ahead(
    data: Dataset, cache: RecipeCacheSpec | None, note: Callable[[str], None]
) -> AbstractContextManager[object]:
    """Copy shards to this PC's own disk in the block, where the recipe wants that and there is a place for them."""
    wanted = cache is not None and cache.stage and data.has_cache
    return contextlib.closing(BackgroundStaging(data, note)) if wanted else contextlib.nullcontext()
