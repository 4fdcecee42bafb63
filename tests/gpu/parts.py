"""What is asked of a card, each a function of the device that gives JSON values: a new one is a line in `PARTS`."""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cluster.facts import find_gpus
from cluster.probe.graphics import read_graphics
from tests.gpu.exchange import one_rank
from tests.gpu.memory import micro_batches
from tests.gpu.precision import losses_apart
from tests.gpu.speed import attention_ms, separation, training_shares
from vr_core.config import plain


class Part(NamedTuple):
    """One of them."""

    run: Callable[[torch.device], dict[str, Any]]
    limit_s: float


def marked_tests(device: torch.device) -> dict[str, Any]:
    """Every test that needs a card: which passed, and what the others said."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-m", "gpu", "-n", "0", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True, check=False)
        cases = list(ET.parse(report).iter("testcase"))
    failed = {
        case.get("name", "?"): (found[0].text or "")[-1000:]
        for case in cases
        if (found := [*case.iter("failure"), *case.iter("error")])
    }
    skipped = [case.get("name", "?") for case in cases if case.find("skipped") is not None]
    passed = [case.get("name", "?") for case in cases if case.get("name") not in {*failed, *skipped}]
    if failed or not passed:
        raise AssertionError(f"failed: {failed}, skipped: {skipped}, passed: {passed}")
    return {"passed": passed, "skipped": skipped}


def driver_answers(device: torch.device) -> dict[str, Any]:
    """What the parsers make of `nvidia-smi`, beside what torch says of the same card."""
    graphics, specs = read_graphics(), find_gpus()
    names = [torch.cuda.get_device_properties(n).name for n in range(torch.cuda.device_count())]
    found = {"graphics": asdict(graphics), "specs": [plain(spec) for spec in specs]}
    if graphics.error or not graphics.cards or len(specs) < len(names):
        raise AssertionError(f"not understood: {found}, torch sees {names}")
    missing = [name for name in names if name not in {card.model for card in graphics.cards}]
    unknown = [card.model for card in graphics.cards if card.power_w is None or card.capability is None]
    return found | {"torch": names, "names_not_found": missing, "without_power_or_capability": unknown}


PARTS: dict[str, Part] = {
    "driver": Part(driver_answers, 30),
    "tests": Part(marked_tests, 90),
    "exchange": Part(one_rank, 40),
    "precision": Part(losses_apart, 40),
    "attention": Part(attention_ms, 40),
    "separation": Part(separation, 60),
    "memory": Part(micro_batches, 80),
    "training": Part(training_shares, 100),
}
"""Name → part; their limits add up to 8 minutes."""
