"""Losses in bfloat16 beside the same in float32, on the device."""

from typing import Any

import torch

from tests.gpu.speed import heard_by, model_of, short
from vr_core.specs.configurations import CONFIGURATIONS

NAMES = ("dense_frame_transformer/songs", "bs_roformer/192x6", "cascaded_net/v5")
CROP_S = 3.0
WITHIN = 0.02


def losses_apart(device: torch.device, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Relative difference of the mean magnitude of what is masked, for each configuration."""
    found = {}
    for name in names:
        configuration = short(CONFIGURATIONS[name], CROP_S)
        torch.manual_seed(0)
        model, heard = model_of(configuration, device).eval(), heard_by(configuration, 1, device)
        with torch.no_grad():
            exact = _loss(model(heard)[model.head.kind], heard)
            with torch.autocast(device.type, torch.bfloat16):
                answer = model(heard)[model.head.kind]
            found[name] = abs(_loss(answer, heard) / exact - 1)
    wrong = {name: off for name, off in found.items() if not off < WITHIN}
    if wrong:
        raise AssertionError(f"further apart than {WITHIN}: {wrong}")
    return found


def _loss(mask: torch.Tensor, heard: torch.Tensor) -> float:
    wide = mask.to(torch.complex64) if mask.is_complex() else mask.float()
    return float((wide * heard[:, None] - 0.5 * heard[:, None]).abs().mean())
