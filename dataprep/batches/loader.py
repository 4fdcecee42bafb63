"""From items to tensors: stored bytes read ahead by threads, widened on the device that trains.

Threads and not processes: what they do is read, for which the interpreter is free, and nothing has to be sent from one
process to another. What travels is as narrow as it is stored; `sounds_of` makes numbers of it where they are
used.
"""

import queue
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dataprep.batches.order import Item
from dataprep.shards.codecs import CODECS, Codec
from dataprep.shards.columns import CHANNELS
from dataprep.shards.dataset import Dataset
from vr_core.audio.effects import altered
from vr_core.audio.sound import Sound
from vr_core.specs.slots import Effects, Signals
from vr_core.specs.stft import StftSpec

READERS = 3
AHEAD = 2
BUFFERS = AHEAD + 2
"""Batches in memory: those read ahead, one in use, one being filled."""
TAKEN_AHEAD = BUFFERS
"""Most batches that a `Loader` has taken from its source beyond the one in use: all other buffers', and one in hand."""
_PART_BYTES = 4 * 2**20
_EXCHANGED_FRAMES = 64


@dataclass(frozen=True)
class CodedStem:
    """One slot of a batch as it is stored; frames beyond an item's end are zero."""

    codec: Codec
    columns: dict[str, Tensor]
    """`[item, frame, channel*bin]`, channels already exchanged where the item says so."""
    scale: Tensor
    """`[item, frame]` float32: peak × gain, zero where there is nothing."""


@dataclass(frozen=True)
class CodedBatch:
    """Some items and their stored bytes, on the device that trains."""

    items: tuple[Item, ...]
    slots: dict[str, CodedStem]
    stft: StftSpec


def sounds_of(batch: CodedBatch, signals: Signals, device: torch.device, dtype: torch.dtype) -> dict[str, Sound]:
    """What an objective poses: sums of slots, with phase where it needs it.

    Args:
        batch: from a `Loader`, or `read_batch`.
        signals: of the objective. A slot that no item of the batch has is silent.
        device: where to.
        dtype: of the magnitudes; complex spectrograms have parts of it.

    Returns:
        Name → `[item, channel, bin, frame]`, transposed views of frame-major memory.

    Raises:
        TypeError: phase is needed, or a slot has effects, and one is stored without phase.
    """
    slots = {name: _to(stem, device) for name, stem in batch.slots.items()}
    parts = {sound: tuple(name for name in names if name in slots) for sound, names in signals.sounds.items()}
    heard = {names for names in parts.values() if names}
    if signals.phase or signals.altered:
        widened = {name: _with_effects(batch, name, slots[name]) for names in heard for name in names}
        spectra = {names: _sum([widened[name] for name in names]).to(dtype.to_complex()) for names in heard}
        found = {names: Sound(batch.stft, x.abs(), x if signals.phase else None) for names, x in spectra.items()}
    else:
        found = {names: Sound(batch.stft, m.to(dtype)) for names, m in _magnitudes(slots, heard).items()}
    like = next(iter(found.values()))
    spectrum = None if like.spectrum is None else torch.zeros_like(like.spectrum)
    found[()] = Sound(batch.stft, torch.zeros_like(like.magnitude), spectrum) if () in parts.values() else like
    return {sound: found[names] for sound, names in parts.items()}


def _with_effects(batch: CodedBatch, slot: str, stem: CodedStem) -> Tensor:
    """One slot of the items, complex, as their reads say."""
    of_items = [{read.key: read.effects for read in item.reads} for item in batch.items]
    return altered(_spectrum(stem), [effects.get(slot, Effects()) for effects in of_items], batch.stft)


def _spectrum(stem: CodedStem) -> Tensor:
    return stem.codec.widen(stem.columns, stem.scale)


def _sum(spectra: Sequence[Tensor]) -> Tensor:
    total, *rest = spectra
    for spectrum in rest:
        total = total + spectrum
    return total


def _magnitudes(slots: Mapping[str, CodedStem], wanted: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], Tensor]:
    """Slots → the magnitude of their sum."""
    found: dict[tuple[str, ...], Tensor] = {}
    # The longest first: a sum of two gives its first part as well, for nothing.
    for names in sorted(wanted, key=lambda names: (-len(names), names)):
        if names in found:
            continue
        first, *rest = (slots[name] for name in names)
        if not rest:
            found[names] = first.codec.widen_magnitude(first.columns, first.scale)
        elif len(rest) == 1 and rest[0].codec is first.codec:
            one, found[names] = first.codec.mix_magnitudes(first.columns, first.scale, rest[0].columns, rest[0].scale)
            found.setdefault(names[:1], one)
        else:
            found[names] = _sum([_spectrum(stem) for stem in (first, *rest)]).abs()
    return found


def read_batch(data: Dataset, items: Sequence[Item]) -> CodedBatch:
    """Read items here and now, without threads or reused memory."""
    filling = _Buffer(data, pinned=False).start(tuple(items))
    for rows in filling.parts:
        filling.read(rows)
    return filling.result()


class Loader:
    """Iterator over batches, read ahead of their use.

    Readers take parts of a batch, a few MiB each, and go on with the next batch while others are at this one: handing
    an item to a thread and waiting for it costs more than copying one MiB.

    On a CPU a batch is valid until the next one is asked for: its memory is used again. On a GPU it is a copy.
    """

    def __init__(self, data: Dataset, batches: Iterable[Sequence[Item]], device: torch.device | str = "cpu") -> None:
        """Start reading.

        Args:
            data: the data set.
            batches: items of each batch, in order; may be endless. It is iterated by threads of the loader.
            device: where the batches are used.
        """
        self.waited_s = 0.0
        """Seconds that the caller has waited for data so far."""
        self._device = torch.device(device)
        self._free: queue.Queue[_Buffer | None] = queue.Queue()
        for _ in range(BUFFERS):
            self._free.put(_Buffer(data, pinned=self._device.type == "cuda"))
        self._started: queue.Queue[_Filling | BaseException | None] = queue.Queue()
        self._in_use: _Buffer | None = None
        self._stop = threading.Event()
        self._ended: BaseException | None = None
        self._parts = self._hand_out(iter(batches))
        self._handing_out = threading.Lock()
        self._readers = [threading.Thread(target=self._read, name=f"reader {i}", daemon=True) for i in range(READERS)]
        for reader in self._readers:
            reader.start()

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
        try:
            got = self._started.get()
            if got is None or isinstance(got, BaseException):
                raise got or StopIteration()
            batch = got.result()
        except BaseException as error:
            self._end(error)
            raise
        finally:
            self.waited_s += time.monotonic() - began_s
        self._in_use = got.buffer
        return self._in_use.on_device(batch, self._device)

    def close(self) -> None:
        """Stop reading and wait for the threads to end; harmless when repeated."""
        self._end(StopIteration())
        for reader in self._readers:
            reader.join()

    def _end(self, last: BaseException) -> None:
        self._ended = self._ended or last
        self._stop.set()
        self._free.put(None)  # for who waits for memory

    def _read(self) -> None:
        while not self._stop.is_set():
            with self._handing_out:
                part = next(self._parts, None)
            if part is None:
                return
            filling, rows = part
            filling.read(rows)

    def _hand_out(self, batches: Iterator[Sequence[Item]]) -> Iterator[tuple["_Filling", range]]:
        """Parts of batches, in order, as long as there is memory; one reader at a time is in here."""
        last: BaseException | None = None
        try:
            for items in batches:
                buffer = self._free.get()
                if self._stop.is_set() or buffer is None:
                    return
                filling = buffer.start(tuple(items))
                self._started.put(filling)
                for rows in filling.parts:
                    yield filling, rows
        except BaseException as error:  # noqa: B902 - whatever it is, it belongs to the thread that asks for batches
            last = error
        self._started.put(last)


class _Filling:
    """A batch while it is read, by any number of threads."""

    def __init__(self, data: Dataset, buffer: "_Buffer", batch: CodedBatch, blocks: dict[str, Tensor]) -> None:
        """Read `batch`, whose columns are those of `blocks` `[column, item, frame, channel*bin]`."""
        self.buffer = buffer
        self._data = data
        self._batch = batch
        # Numpy's views: torch lets go of the interpreter at every small assignment, and another reader takes it.
        self._columns = {slot: block.numpy() for slot, block in blocks.items()}
        self._scales = {slot: stem.scale.numpy() for slot, stem in batch.slots.items()}
        count = len(batch.items)
        batch_bytes = sum(block.nbytes for block in self._columns.values())
        size = max(1, min(_PART_BYTES * count // max(1, batch_bytes), -(-count // READERS)))
        self.parts = [range(first, min(first + size, count)) for first in range(0, count, size)]
        self._left = len(self.parts)
        self._counting = threading.Lock()
        self._done = threading.Event()
        self._error: BaseException | None = None

    def read(self, rows: range) -> None:
        """Read these items; what fails is raised by `result`."""
        try:
            for row in rows:
                self._read_item(self._batch.items[row], row)
        except BaseException as error:  # noqa: B902 - as above
            self._error = error
        with self._counting:
            self._left -= 1
            if not self._left:
                self._done.set()

    def _read_item(self, item: Item, row: int) -> None:
        done = dict.fromkeys(self._columns, 0)
        for read in item.reads:
            out = self._columns[read.key][:, row, : read.frames]
            self._data.read(read.song, read.role, read.start_frame, read.frames, out)
            if read.swap:
                for column in out:
                    _exchange_channels(column.reshape(read.frames, CHANNELS, -1))
            scale = self._scales[read.key][row, : read.frames]
            self._data.scale(read.song, read.role, read.start_frame, read.gain, scale)
            done[read.key] = read.frames
        for slot, frames in done.items():
            if frames < item.crop_frames:
                self._columns[slot][:, row, frames:] = 0

    def result(self) -> CodedBatch:
        """The batch, when all parts are read."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._batch


class _Buffer:
    """Memory for one batch, allocated once for the largest batch it has held."""

    def __init__(self, data: Dataset, pinned: bool) -> None:
        self._data = data
        self._pinned = pinned
        self._blocks: dict[str, Tensor] = {}
        self._scales: dict[str, Tensor] = {}
        self._copied: torch.cuda.Event | None = None

    def start(self, items: tuple[Item, ...]) -> _Filling:
        """Take this memory for `items`; nothing is read yet."""
        if self._copied is not None:  # the GPU still reads what lies here
            self._copied.synchronize()
            self._copied = None
        crop, width = items[0].crop_frames, CHANNELS * self._data.stft.bins
        slots, blocks = {}, {}
        for slot, role in sorted({(read.key, read.role) for item in items for read in item.reads}):
            codec = CODECS[self._data.manifest.codec_of(role)]
            (dtype,) = {codec.torch_dtype(name) for name in codec.columns}
            blocks[slot] = self._memory(self._blocks, slot, dtype, (len(codec.columns), len(items), crop, width))
            scale = self._memory(self._scales, slot, torch.float32, (1, len(items), crop))[0]
            slots[slot] = CodedStem(codec, dict(zip(codec.columns, blocks[slot], strict=True)), scale.zero_())
        return _Filling(self._data, self, CodedBatch(items, slots, self._data.stft), blocks)

    def on_device(self, batch: CodedBatch, device: torch.device) -> CodedBatch:
        """The batch where it is used; this memory is not filled again before the copy has been made."""
        if device.type != "cuda":
            return batch
        moved = {slot: _to(stem, device) for slot, stem in batch.slots.items()}
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._copied.record(torch.cuda.current_stream(device))
        return CodedBatch(batch.items, moved, batch.stft)

    def _memory(self, held: dict[str, Tensor], slot: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """`[x, item, ...]`, the same as before where there are no more items than ever."""
        there = held.get(slot)
        if there is None or there.shape[1] < shape[1] or there.shape[2:] != shape[2:]:
            there = held[slot] = torch.empty(shape, dtype=dtype, pin_memory=self._pinned)
        return there[:, : shape[1]]


def _exchange_channels(frames: np.ndarray) -> None:
    """Left for right, in place, in pieces that stay in a core's cache."""
    for start in range(0, len(frames), _EXCHANGED_FRAMES):
        piece = frames[start : start + _EXCHANGED_FRAMES]
        left = piece[:, 0].copy()
        piece[:, 0] = piece[:, 1]
        piece[:, 1] = left


def _to(stem: CodedStem, device: torch.device) -> CodedStem:
    if stem.scale.device == device:
        return stem
    columns = {name: column.to(device, non_blocking=True) for name, column in stem.columns.items()}
    return CodedStem(stem.codec, columns, stem.scale.to(device, non_blocking=True))
