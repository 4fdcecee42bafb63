"""NCCL with one rank: that it starts, adds up, and carries a step of the loop's own DistributedDataParallel."""

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.gpu.clock import device_s

NUMBERS = 51_000_000
"""As many as a RoFormer of 256x12 has."""


def one_rank(device: torch.device) -> dict[str, Any]:
    """Seconds of an all-reduce among one, which is what NCCL itself costs; a gradient that went through it."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        dist.init_process_group(backend, init_method=meeting, rank=0, world_size=1)
        try:
            numbers = torch.ones(NUMBERS if device.type == "cuda" else 1000, device=device)
            took_s = device_s(lambda: dist.all_reduce(numbers), device)
            if not torch.equal(numbers, torch.ones_like(numbers)):
                raise AssertionError("an all-reduce among one changed its numbers")
            layer = torch.nn.Linear(64, 64).to(device)
            parallel = torch.nn.parallel.DistributedDataParallel(layer)
            x = torch.randn(8, 64, device=device)
            parallel(x).sum().backward()
            expected = x.sum(0).expand(64, 64)
            off = (layer.weight.grad - expected).abs().max().item()  # type: ignore[operator]
            if off > 1e-4:
                raise AssertionError(f"a gradient is {off} off")
            return {"backend": backend, "all_reduce_s": took_s, "numbers": len(numbers), "gradient_off": off}
        finally:
            dist.destroy_process_group()
