"""From items to tensors: stored bytes read ahead by threads, widened on the device that trains.

Threads and not processes: what they do is copy out of a memory map, for which numpy lets go of the interpreter, and
nothing has to be sent from one process to another. What travels is as narrow as it is stored; `widen_magnitudes` makes
numbers of it where they are used.
"""

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataprep.codecs import CHANNELS, CODECS, Codec
from dataprep.dataset import Dataset
from dataprep.order import Item
from dataprep.tracks import Role

READERS = 4
AHEAD = 2


@dataclass(frozen=True)
class CodedStem:
    """One role of a batch as it is stored; frames beyond an item's end are zero."""

    codec: Codec
    columns: dict[str, Tensor]
    """`[item, frame, channel*bin]`, channels already exchanged where the item says so."""
    scale: Tensor
    """`[item, frame]` float32: peak × gain, zero where there is nothing."""


@dataclass(frozen=True)
class CodedBatch:
    """Some items and their stored bytes, on the device that trains."""

    items: tuple[Item, ...]
    stems: dict[Role, CodedStem]


def widen_magnitudes(batch: CodedBatch, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Magnitudes that a model trains on.

    Args:
        batch: from a `Loader`, or `read_batch`.
        device: where to.

    Returns:
        The mixture's, `[item, channel, bin, frame]` float32; the instrumental's, or None where the mixture was read.
        Instrumental and vocals are added as complex spectrograms. Both are transposed views of frame-major memory.
    """
    stems = {role: _to(stem, device) for role, stem in batch.stems.items()}
    if "mixture" in stems:
        mixture = stems["mixture"]
        return mixture.codec.widen_magnitude(mixture.columns, mixture.scale), None
    instrumental, vocals = stems["instrumental"], stems.get("vocals")
    if vocals is None:
        alone = instrumental.codec.widen_magnitude(instrumental.columns, instrumental.scale)
        return alone, alone
    one, both = instrumental.codec.mix_magnitudes(
        instrumental.columns, instrumental.scale, vocals.columns, vocals.scale
    )
    return both, one


def read_batch(data: Dataset, items: Sequence[Item]) -> CodedBatch:
    """Read items here and now, without threads or reused memory."""
    buffer = _Buffer(data, pinned=False)
    with ThreadPoolExecutor(1) as pool:
        return buffer.filled(tuple(items), pool)


class Loader:
    """Iterator over batches, read ahead of their use.

    On a CPU a batch is valid until the next one is asked for: its memory is used again. On a GPU it is a copy.
    """

    def __init__(self, data: Dataset, batches: Iterable[Sequence[Item]], device: torch.device | str = "cpu") -> None:
        """Start reading.

        Args:
            data: the data set.
            batches: items of each batch, in order; may be endless. It is iterated by a thread of the loader.
            device: where the batches are used.
        """
        self.waited_s = 0.0
        """Seconds that the caller has waited for data so far."""
        self._data = data
        self._device = torch.device(device)
        self._ready: queue.Queue[tuple[_Buffer, CodedBatch] | BaseException | None] = queue.Queue(AHEAD)
        self._free: queue.Queue[_Buffer | None] = queue.Queue()
        for _ in range(AHEAD + 2):  # one in use, one being filled
            self._free.put(_Buffer(data, pinned=self._device.type == "cuda"))
        self._in_use: _Buffer | None = None
        self._stop = threading.Event()
        self._ended: BaseException | None = None
        self._thread = threading.Thread(target=self._read, args=(iter(batches),), name="batches", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> CodedBatch:
        """The next batch.

        Raises:
            StopIteration: `batches` has ended, or the loader is closed.
            ShardError, ManifestError, StorageError: what reading ahead met, when its turn has come.
        """
        if self._ended is not None:
            raise self._ended
        if self._in_use is not None:
            self._free.put(self._in_use)
            self._in_use = None
        began_s = time.monotonic()
        got = self._ready.get()
        self.waited_s += time.monotonic() - began_s
        if got is None or isinstance(got, BaseException):
            self._ended = got or StopIteration()
            raise self._ended
        self._in_use, batch = got
        return self._in_use.on_device(batch, self._device)

    def close(self) -> None:
        """Stop reading and wait for the threads to end; harmless when repeated."""
        self._ended = self._ended or StopIteration()
        self._stop.set()
        self._free.put(None)
        while self._thread.is_alive():
            # The thread may wait for room: make some until it has seen the stop.
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _read(self, batches: Iterator[Sequence[Item]]) -> None:
        last: BaseException | None = None
        try:
            with ThreadPoolExecutor(READERS, thread_name_prefix="reader") as pool:
                for items in batches:
                    buffer = self._free.get()
                    if self._stop.is_set() or buffer is None:
                        return
                    self._ready.put((buffer, buffer.filled(tuple(items), pool)))
                    if self._stop.is_set():
                        return
        except BaseException as error:  # noqa: B902 - whatever it is, it belongs to the thread that asks for batches
            last = error
        self._ready.put(last)


class _Buffer:
    """Memory for one batch, allocated once for the largest batch it has held."""

    def __init__(self, data: Dataset, pinned: bool) -> None:
        self._data = data
        self._pinned = pinned
        self._columns: dict[tuple[Role, str], Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def filled(self, items: tuple[Item, ...], pool: ThreadPoolExecutor) -> CodedBatch:
        """Read `items` into this memory."""
        if self._copied is not None:  # the GPU still reads what lies here
            self._copied.synchronize()
            self._copied = None
        roles = sorted({read.role for item in items for read in item.reads})
        crop, width = items[0].crop_frames, CHANNELS * self._data.stft.bins
        stems: dict[Role, CodedStem] = {}
        for role in roles:
            codec = CODECS[self._data.manifest.codec_of(role)]
            columns = {
                name: self._column(role, name, codec.torch_dtype(name), (len(items), crop, width))
                for name in codec.columns
            }
            scale = self._column(role, "scale", torch.float32, (len(items), crop))
            stems[role] = CodedStem(codec, columns, scale.zero_())
        # list(): the first error of any reader is raised here.
        list(pool.map(lambda i: self._read_item(items[i], stems, i), range(len(items))))
        return CodedBatch(items, stems)

    def on_device(self, batch: CodedBatch, device: torch.device) -> CodedBatch:
        """The batch where it is used; this memory is not filled again before the copy has been made."""
        if device.type != "cuda":
            return batch
        moved = {role: _to(stem, device) for role, stem in batch.stems.items()}
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._copied.record(torch.cuda.current_stream(device))
        return CodedBatch(batch.items, moved)

    def _column(self, role: Role, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        held = self._columns.get((role, name))
        if held is None or held.shape[0] < shape[0] or held.shape[1:] != shape[1:]:
            held = torch.empty(shape, dtype=dtype, pin_memory=self._pinned)
            self._columns[role, name] = held
        return held[: shape[0]]

    def _read_item(self, item: Item, stems: dict[Role, CodedStem], row: int) -> None:
        done = {read.role: 0 for read in item.reads}
        for read in item.reads:
            stem = stems[read.role]
            for name, column in stem.columns.items():
                out = column[row, : read.frames].numpy().reshape(read.frames, CHANNELS, -1)
                self._data.read(
                    read.song, read.role, name, read.start_frame, read.frames, out[:, ::-1] if read.swap else out
                )
            peaks = self._data.peaks(read.song, read.role, read.start_frame, read.frames)
            stem.scale[row, : read.frames] = torch.from_numpy(peaks * np.float32(read.gain))
            done[read.role] = read.frames
        for role, stem in stems.items():
            for column in stem.columns.values():
                column[row, done.get(role, 0) :].zero_()


def _to(stem: CodedStem, device: torch.device) -> CodedStem:
    if stem.scale.device == device:
        return stem
    columns = {name: column.to(device, non_blocking=True) for name, column in stem.columns.items()}
    return CodedStem(stem.codec, columns, stem.scale.to(device, non_blocking=True))
