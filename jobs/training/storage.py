"""A data set as this PC sees it: with the roots and the cache that its cluster's inventory gives it."""

from pathlib import Path

from cluster.inventory import CacheSpec
from cluster.node.head import this_member
from dataprep.shards.cache import ShardCache
from dataprep.shards.dataset import Dataset
from dataprep.shards.roots import Roots
from jobs.recipe import RecipeCacheSpec
from vr_core.small_files import expanded


def roots_here(folder: Path) -> Roots:
    """Where this PC looks for shards of the data set in `folder`.

    Raises:
        ManifestError: its `roots.yaml` is not as it should be.
    """
    member = this_member()
    return Roots.of(folder, member.node.name, member.node.data_roots) if member else Roots.of(folder)


def cache_here(asked: RecipeCacheSpec | None = None) -> CacheSpec | None:
    """Where copies of shards are on this PC: what the recipe says, else its inventory, else nowhere."""
    if asked is not None and asked.path is not None and asked.quota_gb is not None:
        return CacheSpec(path=asked.path, quota_gb=asked.quota_gb)
    member = this_member()
    return member.node.cache if member else None


def open_data(folder: Path, asked: RecipeCacheSpec | None = None, version: str | None = None) -> Dataset:
    """The data set in `folder`, read from this PC's own disks where they have it.

    Args:
        folder: of the data set.
        asked: what a recipe says of copies.
        version: as of `Dataset.open`.

    Raises:
        ManifestError, StorageError: as `Dataset.open`, `Roots.of` and `ShardCache`.
    """
    spec = cache_here(asked)
    cache = ShardCache(expanded(spec.path), round(1e9 * spec.quota_gb)) if spec else None
    return Dataset.open(folder, cache, version, roots_here(folder))
