"""The split that a published data set has by its folders: `train/`, `test/` and `valid/` at the top, as in MUSDB18."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dataprep.roles import Split

SPLIT_FOLDERS: Mapping[str, Split] = {
    "train": "train", "training": "train", "tr": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "cv": "valid",
    "test": "test", "testing": "test", "eval": "test", "tt": "test",
}  # fmt: skip


def published_splits(sources: Sequence[tuple[Path, Sequence[tuple[str, ...]]]]) -> list[list[Split | None]]:
    """Split of each song of each source by the folder at the top, or by the name of the source itself.

    A folder that is called `test` alone is an album, so it takes two such folders: train and another one.

    Args:
        sources: sources, and of each song its path below it.
    """
    by_source = [SPLIT_FOLDERS.get(source.name.casefold()) for source, _ in sources]
    if "train" not in by_source or len(set(by_source) - {None}) < 2:
        by_source = [None] * len(by_source)
    result: list[list[Split | None]] = []
    for (_, songs), own in zip(sources, by_source, strict=True):
        tops = [SPLIT_FOLDERS.get(parts[0].casefold()) if len(parts) > 1 else None for parts in songs]
        heeded = "train" in tops and len(set(tops) - {None}) > 1
        result.append([top if heeded and top else own for top in tops])
    return result
