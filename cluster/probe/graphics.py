"""The NVIDIA driver and its cards, by `nvidia-smi`: every driver brings it. The parsers are pure."""

from __future__ import annotations

import csv
import re
import subprocess
from pathlib import Path

from cluster.probe.readings import Card, CardProcess, Graphics

_CARD_KEYS = (
    "index,uuid,name,memory.total,memory.free,power.draw,power.limit,temperature.gpu,compute_cap,driver_version"
)
_PROCESS_KEYS = "gpu_uuid,pid,process_name,used_memory"
_TIMEOUT_S = 30


def read_graphics(pci: Path = Path("/sys/bus/pci/devices")) -> Graphics:
    """The cards of this machine, now."""
    on_bus = count_adapters(pci)
    try:
        cards = _ask(f"--query-gpu={_CARD_KEYS}", "--format=csv,noheader,nounits")
        if "compute_cap" in cards.stdout + cards.stderr:  # a driver before 510 does not know the field
            cards = _ask(f"--query-gpu={_CARD_KEYS.replace('compute_cap', 'pstate')}", "--format=csv,noheader,nounits")
        if cards.returncode != 0 and "No devices were found" not in cards.stdout:
            return Graphics(on_bus, None, None, (), (), " ".join((cards.stdout + cards.stderr).split())[:300])
        processes = _ask(f"--query-compute-apps={_PROCESS_KEYS}", "--format=csv,noheader,nounits").stdout
        summary = _ask("-q", "-d", "COMPUTE").stdout
    except FileNotFoundError:
        return Graphics(on_bus, None, None, (), (), None)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Graphics(on_bus, None, None, (), (), f"nvidia-smi: no answer ({error})"[:300])
    found, driver = parse_cards(cards.stdout)
    return Graphics(on_bus, driver, parse_cuda_limit(summary), found, parse_processes(processes), None)


def _ask(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nvidia-smi", *options], capture_output=True, text=True, timeout=_TIMEOUT_S)


def parse_cards(text: str) -> tuple[tuple[Card, ...], str | None]:
    """Cards and driver version from nvidia-smi's table of `_CARD_KEYS`."""
    cards: list[Card] = []
    driver = None
    for row in _rows(text, columns=10):
        index, uuid, model, total, free, power, limit, temperature, capability, driver = row
        if not index.isdigit() or _number(total) is None:
            continue
        card = Card(
            index=int(index),
            uuid=uuid,
            model=model,
            memory_mib=int(_number(total) or 0),
            free_mib=int(_number(free) or 0),
            power_w=_number(power),
            limit_w=_number(limit),
            temperature_c=_number(temperature),
            capability=capability if re.fullmatch(r"\d+\.\d+", capability) else None,
        )
        cards.append(card)
    return tuple(cards), driver


def parse_processes(text: str) -> tuple[CardProcess, ...]:
    """Processes from nvidia-smi's table of `_PROCESS_KEYS`."""
    found = []
    for uuid, pid, name, memory in _rows(text, columns=4):
        if pid.isdigit():
            used = _number(memory)
            found.append(CardProcess(uuid, int(pid), name, None if used is None else int(used)))
    return tuple(found)


def parse_cuda_limit(text: str) -> str | None:
    """The number of the line `CUDA Version : 13.0`, which drivers from 590 on call `CUDA UMD Version`."""
    match = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)", text)
    return match.group(1) if match else None


def count_adapters(pci: Path) -> int:
    """NVIDIA display adapters on the bus, whether or not a driver drives them."""
    count = 0
    for device in pci.glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        # Class 0x03 is a display controller: 0x0300 with an output, 0x0302 without.
        count += vendor == "0x10de" and kind.startswith("0x03")
    return count


def _rows(text: str, columns: int) -> list[list[str]]:
    # A process's name may hold commas, in quotes then.
    rows = csv.reader(text.splitlines(), skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in rows if len(row) == columns]


def _number(text: str) -> float | None:
    """None for `[N/A]`, `[Not Supported]` and the like."""
    try:
        return float(text)
    except ValueError:
        return None
