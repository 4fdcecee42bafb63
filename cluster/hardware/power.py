"""Power caps of NVIDIA cards through `nvidia-smi`: set where allowed, read back, said in a line a card."""

import subprocess
from collections.abc import Mapping, Sequence

from cluster.inventory import GpuSpec
from vr_core.config import Spec

QUERY = ("nvidia-smi", "--query-gpu=index,power.limit,power.min_limit,power.max_limit", "--format=csv,noheader,nounits")
_TIMEOUT_S = 30


class PowerLimit(Spec):
    """What one card may draw, in watts."""

    now_w: float
    min_w: float
    max_w: float


def parse_limits(text: str) -> dict[int, PowerLimit]:
    """Card number → limits, of the answer to `QUERY`; cards that have no settable limit are left out."""
    limits = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        try:
            index, now_w, min_w, max_w = int(fields[0]), *map(float, fields[1:4])
        except (ValueError, IndexError):  # [N/A], [Not Supported], or no table at all
            continue
        limits[index] = PowerLimit(now_w=now_w, min_w=min_w, max_w=max_w)
    return limits


def wanted_caps(gpus: Sequence[GpuSpec]) -> dict[int, int]:
    """Card number → watts, for the cards of a node that have a cap."""
    return {i: gpu.power_cap_w for i, gpu in enumerate(gpus) if gpu.power_cap_w is not None}


def set_argv(index: int, watts: int) -> list[str]:
    """The command that caps one card."""
    return ["nvidia-smi", "-i", str(index), "-pl", str(watts)]


def cap_message(index: int, watts: int, code: int, output: str, limit: PowerLimit | None) -> str:
    """What the user reads about one card, from the exit code and words of `nvidia-smi -pl` and the limit read back."""
    if limit is None:
        return f"GPU {index}: this card has no power limit that can be set; leave power_cap_w out"
    still = f"stays at {limit.now_w:g} W"
    if code == 0 and abs(limit.now_w - watts) < 1:
        return f"GPU {index}: power cap {limit.now_w:g} W"
    if not limit.min_w <= watts <= limit.max_w:
        return f"GPU {index}: {still}; power_cap_w {watts} should be {limit.min_w:g} to {limit.max_w:g}"
    if "permission" in output.lower():
        return f"GPU {index}: {still}; only root may cap it: sudo {' '.join(set_argv(index, watts))}"
    said = " ".join(output.split())[:200] or f"exit code {code}"
    return f"GPU {index}: {still} instead of {watts} W ({said})"


def apply_caps(gpus: Sequence[GpuSpec]) -> list[str]:
    """Cap the cards that have `power_cap_w`, and read back what holds now: one line a card for the user.

    A cap that cannot be set hinders nothing else. It lasts until the driver is loaded anew.
    """
    caps = wanted_caps(gpus)
    if not caps:
        return []
    answers = {index: _run(set_argv(index, watts)) for index, watts in caps.items()}
    limits: Mapping[int, PowerLimit] = parse_limits(_run(QUERY)[1])
    return [cap_message(index, watts, *answers[index], limits.get(index)) for index, watts in caps.items()]


def _run(argv: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout + done.stderr
