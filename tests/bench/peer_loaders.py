"""Four libraries that hold training data, each behind the same three functions; runs in the environment of `peers`.

    python peer_loaders.py write NAME FOLDER SOURCE ITEM_BYTES
    python peer_loaders.py measure NAME FOLDER ITEM_BYTES BATCH BUFFERS MODE SECONDS

SOURCE is a file of items of ITEM_BYTES, one after the other. `measure` visits every item once an epoch in random order,
copies each into one of BUFFERS batch buffers that are used again in turn, and prints bytes a second from the first
batch of an epoch to its last, and the sum of all bytes of one epoch (as 64-bit words), by which the reader of this sees
that all were there.
MODE is `inline`, `threads` (four, on random access), or a number of torch DataLoader workers.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

CHUNK_BYTES = 64 * 2**20
THREADS = 4


def items_of(source: str, item_bytes: int) -> np.ndarray:
    """`[item, byte]`, mapped."""
    return np.memmap(source, np.uint8, "r").reshape(-1, item_bytes)


def write_litdata(folder: Path, items: np.ndarray) -> None:
    """As `litdata.optimize` writes, without its processes."""
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=CHUNK_BYTES)
    for index, item in enumerate(items):
        writer[index] = {"x": np.array(item)}
    writer.done()
    writer.merge(1)


def open_litdata(folder: Path) -> Any:
    from litdata import StreamingDataset

    return StreamingDataset(str(folder), shuffle=True, max_cache_size="100GB")


def write_streaming(folder: Path, items: np.ndarray) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"x": f"ndarray:uint8:{items.shape[1]}"}, size_limit=CHUNK_BYTES) as out:
        for item in items:
            out.write({"x": np.array(item)})


def open_streaming(folder: Path) -> Any:
    from streaming import StreamingDataset

    return StreamingDataset(local=str(folder), shuffle=True, batch_size=1, num_canonical_nodes=1)


def write_datasets(folder: Path, items: np.ndarray) -> None:
    from datasets import Dataset, Features, Value

    made = Dataset.from_generator(
        lambda: ({"x": item.tobytes()} for item in items),
        features=Features({"x": Value("large_binary")}),
        cache_dir=str(folder.with_name(folder.name + "-cache")),
        writer_batch_size=max(1, CHUNK_BYTES // items.shape[1]),
    )
    made.save_to_disk(str(folder), max_shard_size="1GB")


def open_datasets(folder: Path) -> Any:
    from datasets import load_from_disk

    return load_from_disk(str(folder)).with_format("arrow")


def write_webdataset(folder: Path, items: np.ndarray) -> None:
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxsize=CHUNK_BYTES, verbose=0) as sink:
        for index, item in enumerate(items):
            sink.write({"__key__": f"{index:08d}", "bin": item.tobytes()})


def open_webdataset(folder: Path) -> Any:
    import webdataset

    urls = sorted(str(path) for path in folder.glob("*.tar"))
    # The least that shuffles within a shard too.
    return webdataset.WebDataset(urls, shardshuffle=len(urls), empty_check=False).shuffle(8)


def as_bytes(sample: Any) -> np.ndarray:
    """The item's bytes, without a copy where the library gives a view."""
    if isinstance(sample, dict):
        value = sample["bin"] if "bin" in sample else sample["x"]
        return np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)
    return np.frombuffer(sample.column("x").chunk(0)[0].as_buffer(), np.uint8)  # a table of one row


PEERS: dict[str, tuple[Callable[[Path, np.ndarray], None], Callable[[Path], Any], bool]] = {
    "litdata": (write_litdata, open_litdata, False),
    "mosaicml-streaming": (write_streaming, open_streaming, True),
    "datasets": (write_datasets, open_datasets, True),
    "webdataset": (write_webdataset, open_webdataset, False),
}
"""Name → how it is written, how it is opened, whether threads may ask one object for any item."""


def epoch(name: str, data: Any, buffers: np.ndarray, mode: str, loader: Any) -> Iterator[np.ndarray]:
    """Fill `buffers` `[buffer, item, byte]` in turn, with every item once; yields what was filled, `[item, byte]`."""
    turns = itertools.cycle(buffers)
    batch = next(turns)
    if mode == "threads":
        order = np.random.permutation(len(data))
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, len(order), len(batch)):
                chosen = order[start : start + len(batch)]

                def fill(row: int, index: int, batch: np.ndarray = batch) -> None:
                    batch[row] = as_bytes(data[index])

                list(pool.map(fill, range(len(chosen)), chosen.tolist()))
                yield batch[: len(chosen)]
                batch = next(turns)
    elif loader is not None:
        for tensors in loader:
            batch[: len(tensors)] = tensors.numpy()
            yield batch[: len(tensors)]
            batch = next(turns)
    else:
        filled = 0
        samples = (data[int(i)] for i in np.random.permutation(len(data))) if name == "datasets" else data
        for sample in samples:
            batch[filled] = as_bytes(sample)
            filled += 1
            if filled == len(batch):
                yield batch
                filled, batch = 0, next(turns)
        if filled:
            yield batch[:filled]


class OneByOne:
    """A data set that is asked for one row at a time."""

    def __init__(self, data: Any) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        return self._data[index]


def loader_of(name: str, data: Any, size: int, workers: int) -> Any:
    """Torch's DataLoader, or the library's own that stands in for it."""
    import torch

    def collate(samples: list[Any]) -> Any:
        return torch.from_numpy(np.stack([as_bytes(sample) for sample in samples]))

    options: dict[str, Any] = {"batch_size": size, "num_workers": workers, "collate_fn": collate}
    options["persistent_workers"] = True
    if name == "litdata":
        from litdata import StreamingDataLoader

        return StreamingDataLoader(data, **options)
    if name == "mosaicml-streaming":
        from streaming import StreamingDataLoader

        return StreamingDataLoader(data, **options)
    if name == "datasets":
        # Asked for several rows at once it answers with a table of them, which it then fails to cut up again.
        return torch.utils.data.DataLoader(OneByOne(data), shuffle=True, **options)
    return torch.utils.data.DataLoader(data, **options)


def measure(
    name: str, folder: Path, item_bytes: int, size: int, count: int, mode: str, seconds: float
) -> dict[str, float]:
    """Whole epochs until that many seconds are measured; the first is not counted, it gives the sum."""
    data = PEERS[name][1](folder)
    loader = loader_of(name, data, size, int(mode)) if mode.isdigit() else None
    buffers = np.ones((count, size, item_bytes), np.uint8)
    total = sum(int(got.view(np.uint64).sum(dtype=np.uint64)) for got in epoch(name, data, buffers, mode, loader))
    spent_s, done_bytes = 0.0, 0
    while spent_s < seconds:
        start_s = None
        for got in epoch(name, data, buffers, mode, loader):
            if start_s is None:
                start_s = time.perf_counter()
            else:
                done_bytes += got.nbytes
        assert start_s is not None
        spent_s += time.perf_counter() - start_s
    return {"bytes_per_s": done_bytes / spent_s, "sum": total % 2**64}


def main(arguments: list[str]) -> None:
    """One act of one library; JSON on the last line of stdout."""
    act, name, folder, *rest = arguments
    if act == "write":
        PEERS[name][0](Path(folder), items_of(rest[0], int(rest[1])))
        return
    item_bytes, size, count, mode, seconds = int(rest[0]), int(rest[1]), int(rest[2]), rest[3], float(rest[4])
    print(json.dumps(measure(name, Path(folder), item_bytes, size, count, mode, seconds)), flush=True)
    os._exit(0)  # some leave threads and shared memory behind that make a regular end slow


if __name__ == "__main__":
    main(sys.argv[1:])
