"""`python -m tests.gpu`: all that this project knows how to ask a graphics card, in at most 8 minutes, as JSON.

Each part is a process of its own with a limit of its own: one that fails, hangs or runs out of memory hides no other.
Without a card every part says `not here`, and the exit code is 0; where a part fails it is 1.

    uv run python -m tests.gpu > figures.json
    uv run python -m tests.gpu --part attention
"""

import argparse
import json
import subprocess
import sys
import time
import traceback
from typing import Any

from tests.bench.measurement import circumstances
from tests.gpu.parts import PARTS

NOT_HERE = "not here"
_SAID_BYTES = 4000
"""Of the end of what a failed part has printed."""


def run_part(name: str, limit_s: float) -> dict[str, Any]:
    """What a part found, by a process of its own: `found`, `failed` or `not here`; and its seconds."""
    began_s = time.monotonic()
    words = [sys.executable, "-m", "tests.gpu", "--part", name]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer in {limit_s:g} s"}
    took = {"seconds": round(time.monotonic() - began_s, 1)}
    try:
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"failed": f"exit code {done.returncode}: {(done.stdout + done.stderr)[-_SAID_BYTES:]}", **took}
    return said | took


def answer(name: str) -> dict[str, Any]:
    """A part in this process."""
    import torch

    if not torch.cuda.is_available():
        return {NOT_HERE: "torch.cuda.is_available() is false"}
    try:
        return {"found": PARTS[name].run(torch.device("cuda"))}
    except Exception:  # noqa: BLE001 - whatever it is, it is what was asked for
        return {"failed": traceback.format_exc()[-_SAID_BYTES:]}


def main(arguments: list[str]) -> int:
    """As the module says."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=PARTS, help="this one alone, in this process")
    asked = parser.parse_args(arguments)
    if asked.part:
        print(json.dumps(answer(asked.part)))
        return 0
    parts = {}
    for name, part in PARTS.items():
        parts[name] = run_part(name, part.limit_s)
        [state] = parts[name].keys() & {"found", "failed", NOT_HERE}
        print(f"{name}: {state}, {parts[name].get('seconds', part.limit_s)} s", file=sys.stderr, flush=True)
    print(json.dumps({**circumstances(), "parts": parts}, indent=2))
    return int(any("failed" in part for part in parts.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
