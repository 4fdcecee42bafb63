"""How frames are stored: encoding in preparation, widening on the device that trains.

Legend: stored columns are `[frame, channel*bin]`, one row of a shard each, or `[item, frame, channel*bin]` in a
batch; `peak` is the largest magnitude of a record batch (at most 4,096 frames). The peak belongs to the record batch
and not to the song for two reasons: preparation needs one pass, so that a ten-hour file is never held, and a quiet
passage keeps its resolution beside a loud one.

    polar8      8-bit log magnitude (0 is zero; 1..255 lie 110/254 dB apart, up to the peak), 8-bit phase; 2 bytes a bin
    complex16   half-precision real and imaginary parts, divided by the peak; 4 bytes
    magnitude8  the magnitude of polar8 alone, for mixtures unless they are asked for with phase; 1 byte

Widening is by tables computed once in double precision, so that a CPU and a GPU see equal values. On a CPU it runs over
pieces of about 32,768 numbers, on as many threads as torch has: pieces stay in the cache, and for so few numbers torch
starts no threads of its own, whose barriers cost far more than the work when training keeps every core busy.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataprep.errors import SongError
from dataprep.shards.columns import CHANNELS, COLUMNS

RANGE_DB = 110.0
_STEP_DB = RANGE_DB / 254
_PIECE = 32_768  # at::internal::GRAIN_SIZE: up to here an operation of torch stays on the thread that calls it
_TORCH_DTYPES = {"uint8": torch.uint8, "float16": torch.float16}

Columns = Mapping[str, Tensor]


class Codec(ABC):
    """One way to store frames."""

    name: str
    columns: Mapping[str, str]
    """Of `dataprep.shards.columns`."""

    @abstractmethod
    def encode(self, spectrogram: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
        """Columns of at most one record batch of frames.

        Args:
            spectrogram: `[channel=2, bin, frame]` complex64.

        Returns:
            `{column: [frame, channel*bin]}`, C-contiguous, and the peak.

        Raises:
            SongError: values that are not finite.
        """

    def widen(self, columns: Columns, scale: Tensor) -> Tensor:
        """Spectrograms of stored frames.

        Args:
            columns: `{column: [item, frame, channel*bin]}`.
            scale: `[item, frame]` float32, the peak of each frame's record batch times any gain.

        Returns:
            `[item, channel, bin, frame]` complex64, a transposed view of frame-major memory: whatever reads it next
            transposes more cheaply than a copy here would.
        """
        (out,) = self._in_pieces(
            lambda rows, scales, outs: outs[0].copy_(self._complex(rows[0], scales[0])),
            [columns], [scale], [torch.complex64],
        )  # fmt: skip
        return out

    def widen_magnitude(self, columns: Columns, scale: Tensor) -> Tensor:
        """As `widen`, magnitudes only: `[item, channel, bin, frame]` float32; a phase column is not read."""
        (out,) = self._in_pieces(
            lambda rows, scales, outs: self._magnitude(rows[0], scales[0], outs[0]), [columns], [scale], [torch.float32]
        )
        return out

    def mix_magnitudes(
        self, first: Columns, first_scale: Tensor, second: Columns, second_scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Magnitudes of one signal and of its sum with another, added as complex spectrograms.

        Args:
            first: columns of the first signal (the instrumental), as in `widen`.
            first_scale: `[item, frame]`.
            second: columns of the second signal (the vocals).
            second_scale: `[item, frame]`; zero where there is no second signal.

        Returns:
            |first| and |first + second|, `[item, channel, bin, frame]` float32, views as in `widen`.
        """
        one, both = self._in_pieces(
            lambda rows, scales, outs: self._mix(rows[0], scales[0], rows[1], scales[1], outs[0], outs[1]),
            [first, second], [first_scale, second_scale], [torch.float32, torch.float32],
        )  # fmt: skip
        return one, both

    def torch_dtype(self, column: str) -> torch.dtype:
        """Element type of a stored column."""
        return _TORCH_DTYPES[self.columns[column]]

    @abstractmethod
    def _complex(self, columns: Columns, scale: Tensor) -> Tensor:
        """Complex values of rows `[row, width]`, times `scale` `[row, 1]`."""

    @abstractmethod
    def _magnitude(self, columns: Columns, scale: Tensor, out: Tensor) -> None:
        """Magnitudes of rows `[row, width]`, times `scale` `[row, 1]`, into `out`."""

    def _mix(
        self, first: Columns, first_scale: Tensor, second: Columns, second_scale: Tensor, one: Tensor, both: Tensor
    ) -> None:
        """|first| into `one` and |first + second| into `both`, rows `[row, width]`."""
        x = self._complex(first, first_scale)
        _absolute(x.real, x.imag, one)
        x.add_(self._complex(second, second_scale))
        _absolute(x.real, x.imag, both)

    def _in_pieces(
        self,
        act: Callable[[list[dict[str, Tensor]], list[Tensor], list[Tensor]], Any],
        stored: list[Columns],
        scales: list[Tensor],
        dtypes: list[torch.dtype],
    ) -> list[Tensor]:
        """Apply `act` to pieces of rows; see the module's head for why."""
        like = next(iter(stored[0].values()))
        outs = [torch.empty(like.shape, dtype=dtype, device=like.device) for dtype in dtypes]
        flat = [{name: column.flatten(0, 1) for name, column in columns.items()} for columns in stored]
        flat_scales = [scale.reshape(-1, 1) for scale in scales]
        flat_outs = [out.flatten(0, 1) for out in outs]
        count = like.shape[0] * like.shape[1]
        step = count if like.is_cuda else max(1, _PIECE // like.shape[2])

        def run(start: int, stop: int) -> None:
            with torch.inference_mode():
                for at in range(start, stop, step):
                    piece = slice(at, min(at + step, stop))
                    rows = [{name: column[piece] for name, column in columns.items()} for columns in flat]
                    act(rows, [scale[piece] for scale in flat_scales], [out[piece] for out in flat_outs])

        threads = 1 if like.is_cuda else min(torch.get_num_threads(), -(-count // max(1, step)))
        bounds = [count * i // threads for i in range(threads + 1)] if threads else []
        if threads > 1:
            list(_pool(threads).map(run, bounds[:-1], bounds[1:]))
        else:
            run(0, count)
        return [out.reshape(*out.shape[:-1], CHANNELS, -1).permute(0, 2, 3, 1) for out in outs]


class Polar8(Codec):
    """8-bit logarithmic magnitude and 8-bit phase."""

    name = "polar8"
    columns = COLUMNS[name]

    def encode(self, spectrogram: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
        """As `Codec.encode`."""
        planes = _planes(spectrogram)
        codes, peak = _magnitude_codes(planes, self.name)
        # Through int16, where -128 and 128 are the same byte.
        phase = torch.atan2(planes[1], planes[0]).mul_(128 / math.pi).round_().to(torch.int16).to(torch.uint8)
        return {"magnitude": codes, "phase": phase.numpy()}, peak

    def _complex(self, columns: Columns, scale: Tensor) -> Tensor:
        codes = columns["magnitude"].int().mul_(256).add_(columns["phase"])
        values = _look_up("polar", codes)
        torch.view_as_real(values).mul_(scale.unsqueeze(-1))
        return values

    def _magnitude(self, columns: Columns, scale: Tensor, out: Tensor) -> None:
        torch.mul(_look_up("magnitude", columns["magnitude"]), scale, out=out)

    def _mix(
        self, first: Columns, first_scale: Tensor, second: Columns, second_scale: Tensor, one: Tensor, both: Tensor
    ) -> None:
        """By the law of cosines: |x + y|² = (|x| - |y|)² + |x|·|y|·2(1 + cos of the angle between).

        The same number as from complex values with half the work: the angle between is a difference of codes modulo
        256. In this form no term is negative, so cancellation needs no clamp.
        """
        self._magnitude(first, first_scale, one)
        other = _look_up("magnitude", second["magnitude"]).mul_(second_scale)
        product = _look_up("opening", first["phase"] - second["phase"]).mul_(one).mul_(other)
        difference = other.sub_(one)
        # Not fused, as in `_absolute`.
        _sqrt(product.add_(difference.square_()), both)


class Complex16(Codec):
    """Half-precision real and imaginary parts."""

    name = "complex16"
    columns = COLUMNS[name]

    def encode(self, spectrogram: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
        """As `Codec.encode`."""
        planes = _planes(spectrogram)
        _, peak = _power(planes, self.name)
        scaled = planes.to(torch.float16)
        return {"real": scaled[0].numpy(), "imag": scaled[1].numpy()}, peak

    def _complex(self, columns: Columns, scale: Tensor) -> Tensor:
        return torch.complex(columns["real"].float().mul_(scale), columns["imag"].float().mul_(scale))

    def _magnitude(self, columns: Columns, scale: Tensor, out: Tensor) -> None:
        _absolute(columns["real"].float(), columns["imag"].float(), out)
        out.mul_(scale)


class Magnitude8(Codec):
    """The magnitude of `Polar8` alone."""

    name = "magnitude8"
    columns = COLUMNS[name]

    def encode(self, spectrogram: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
        """As `Codec.encode`."""
        codes, peak = _magnitude_codes(_planes(spectrogram), self.name)
        return {"magnitude": codes}, peak

    def _complex(self, columns: Columns, scale: Tensor) -> Tensor:
        raise TypeError("magnitude8 stores no phase; prepare the music with --mixture-codec polar8, or read its stems")

    def _magnitude(self, columns: Columns, scale: Tensor, out: Tensor) -> None:
        torch.mul(_look_up("magnitude", columns["magnitude"]), scale, out=out)


CODECS: dict[str, Codec] = {"polar8": Polar8(), "complex16": Complex16(), "magnitude8": Magnitude8()}


def _planes(spectrogram: np.ndarray) -> Tensor:
    """`[channel, bin, frame]` as contiguous `[real or imaginary, frame, channel*bin]` float32.

    Apart, since torch's arithmetic on complex numbers is not vectorised: `abs` takes ten times what squares take.
    """
    parts = torch.view_as_real(torch.from_numpy(spectrogram))
    return parts.permute(3, 2, 0, 1).flatten(2).contiguous()


def _power(planes: Tensor, codec: str) -> tuple[Tensor, float]:
    """Squared magnitude over its largest, and the peak magnitude; both 0 for silence. Divides `planes` by the peak."""
    low, high = (float(value) for value in torch.aminmax(planes)) if planes.numel() else (0.0, 0.0)
    top = max(-low, high)
    if not top * 2**0.5 <= torch.finfo(torch.float32).max:  # also where it is no number
        raise SongError(f"samples are not finite or too large for the codec {codec}; export the file again")
    if top < 1e-35:  # its reciprocal overflows; it is 700 dB under full scale
        return planes[0].zero_(), 0.0
    planes.mul_(1 / top)
    # A real part of -0 would give silence the angle pi.
    power = torch.addcmul(planes[0].add_(0.0).square(), planes[1], planes[1])
    most = float(power.max())
    planes.mul_(most**-0.5)
    return power.mul_(1 / most), top * most**0.5


def _magnitude_codes(planes: Tensor, codec: str) -> tuple[np.ndarray, float]:
    """Codes `[frame, channel*bin]` uint8, and the peak; `planes` is divided by it."""
    power, peak = _power(planes, codec)
    # log10(0) is -inf, which clamps to 0: nearest code rounding puts everything below half a step under code 1 to zero.
    levels = power.log10_().mul_(10 / _STEP_DB).add_(255).round_().clamp_(0, 255)
    codes: np.ndarray = levels.to(torch.int16).to(torch.uint8).numpy()
    return codes, peak


def _look_up(table: str, codes: Tensor) -> Tensor:
    index = codes if codes.dtype == torch.int32 else codes.int()
    return _table(table, codes.device).index_select(0, index.reshape(-1)).view(codes.shape)


def _absolute(real: Tensor, imag: Tensor, out: Tensor) -> None:
    """sqrt(real² + imag²), rounded after each operation: every processor gives the same number."""
    _sqrt(real.square().add_(imag.square()), out)


def _sqrt(values: Tensor, out: Tensor) -> None:
    """The nearest float32, as IEEE 754 asks for. On a CPU torch leaves it to MKL, which is off by a bit on some."""
    if values.device.type == "cpu":
        np.sqrt(values.numpy(), out=out.numpy())
    else:
        torch.sqrt(values, out=out)


@lru_cache(maxsize=32)
def _table(name: str, device: torch.device) -> Tensor:
    """`magnitude` [256], `opening` [256] (2 + 2·cos of a phase code) or `polar` [65536] complex64, on a device."""
    codes = np.arange(256)
    magnitude = np.where(codes == 0, 0.0, 10 ** ((codes - 255) * _STEP_DB / 20))
    angle = codes * (2 * np.pi / 256)
    values: dict[str, Callable[[], np.ndarray]] = {
        "magnitude": lambda: magnitude.astype(np.float32),
        "opening": lambda: (2 + 2 * np.cos(angle)).astype(np.float32),
        "polar": lambda: (magnitude[:, None] * np.exp(1j * angle)).astype(np.complex64).reshape(-1),
    }
    return torch.from_numpy(values[name]()).to(device)


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="widen")
