"""The split that a published data set has by its folders: `train/`, `test/` and `valid/` at the top, as in MUSDB18.

They may also lie one level down, as where the source is the folder in which the data set was unpacked.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dataprep.roles import Split

SPLIT_FOLDERS: Mapping[str, Split] = {
    "train": "train", "training": "train", "tr": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "cv": "valid",
    "test": "test", "testing": "test", "eval": "test", "tt": "test",
}  # fmt: skip


def published_splits(sources: Sequence[tuple[Path, Sequence[tuple[str, ...]]]]) -> list[list[Split | None]]:
    """Split of each song of each source by its folder, or by the name of the source itself.

    A folder that is called `test` alone is an album, so it takes two such folders: train and another one. `Dev` and
    `Test` alone, as in DSD100, are train and test.

    Args:
        sources: sources, and of each song its path below it.
    """
    by_source = [SPLIT_FOLDERS.get(source.name.casefold()) for source, _ in sources]
    if "train" not in by_source or len(set(by_source) - {None}) < 2:
        by_source = [None] * len(by_source)
    result: list[list[Split | None]] = []
    for (_, songs), own in zip(sources, by_source, strict=True):
        places = [_place(parts) for parts in songs]
        splits = {above: _splits({name for place in places if place and place[0] == above for name in place[1:]})
                  for above in {place[0] for place in places if place}}  # fmt: skip
        result.append([splits[place[0]].get(place[1], own) if place else own for place in places])
    return result


def _place(parts: tuple[str, ...]) -> tuple[str, str] | None:
    """What lies above a song's split folder, and the name of that, in lower case."""
    folders = [part.casefold() for part in parts[:-1]][:2]
    depth = next((depth for depth, folder in enumerate(folders) if folder in SPLIT_FOLDERS), None)
    return None if depth is None else ("/".join(folders[:depth]), folders[depth])


def _splits(names: set[str]) -> dict[str, Split]:
    """What folders of these names, side by side, are; empty where they are no data set's."""
    splits = {name: SPLIT_FOLDERS[name] for name in names}
    if names == {"dev", "test"}:
        splits["dev"] = "train"
    return splits if "train" in splits.values() and len(set(splits.values())) > 1 else {}
