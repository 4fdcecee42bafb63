"""Measurements of this PC, kept for the next start: one file for each (device, model, recipe's batch and precision).

A run that trained on one puts back what it found while training.
"""

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from cluster.node.head import state_folder
from jobs.recipe import ADDED_KEYS, Recipe
from jobs.steps.shares import Speed
from jobs.training.speed.memory import models_kept
from vr_core.config import Spec, digest, identity, plain, validate
from vr_core.errors import ConfigError
from vr_core.files import write_json
from vr_core.small_files import read_json


class SpeedRow(Spec):
    """A kept measurement."""

    fixed_s: Annotated[float, Field(ge=0)]
    item_s: Annotated[float, Field(gt=0)]
    micro_batch: Annotated[int, Field(ge=1)]
    tight: bool = False
    """More would not fit this PC's memory."""
    begun: bool = False
    """A start has not come to its first step yet: where it died, it was too much after all."""
    elsewhere: bool = False
    """Of another PC's device, told by a run on both: good for `vr plan`. What fits this PC it does not say."""

    @property
    def speed(self) -> Speed:
        """Without what is remembered of its finding."""
        return Speed(self.fixed_s, self.item_s, self.micro_batch)


def key_of(recipe: Recipe, bins: int, device: torch.device, bf16: bool) -> dict[str, Any]:
    """All that a measurement depends on, JSON-ready."""
    # A key that recipes got since is left out at its default: what earlier versions have kept is found.
    model = identity({"model": plain(recipe.model)}, added=ADDED_KEYS)["model"]
    more: dict[str, Any] = {"lora": plain(recipe.lora)} if recipe.lora is not None else {}
    if recipe.optim.name != "adamw":
        more["optimiser"] = recipe.optim.name
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "threads": torch.get_num_threads() if device.type == "cpu" else 0,
        "torch": str(torch.__version__),
        "model": model,
        "objective": plain(recipe.objective),
        "freeze": list(recipe.optim.freeze),
        "bins": bins,
        "crop_frames": recipe.batch.crop_frames,
        "micro_batch": recipe.batch.micro_batch,
        "precision": [recipe.precision, bf16],
        "models_kept": models_kept(recipe),
        **more,
    }


def kept_row(key: dict[str, Any]) -> SpeedRow | None:
    """The measurement of that key on this PC; None where there is none, or it is damaged."""
    try:
        return validate(SpeedRow, read_json(_file(key))["speed"], str(_file(key)))
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return None


def kept_speeds(recipe: Recipe, bins: int) -> dict[str, Speed]:
    """Device → speed of the measurements kept on this PC that are of this model, objective and batch."""
    wanted = key_of(recipe, bins, torch.device("cpu"), False)
    same = ("model", "objective", "freeze", "bins", "crop_frames", "micro_batch", "lora", "optimiser")
    found = {}
    for file in sorted((state_folder() / "speeds").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError):
            reported = read_json(file)
            if all(reported["key"].get(part) == wanted.get(part) for part in same):
                found[str(reported["key"]["device"])] = validate(SpeedRow, reported["speed"], str(file)).speed
    return found


def keep_speed(key: dict[str, Any], speed: Speed, *, tight: bool | None = None, begun: bool = False) -> None:
    """Keep a measurement for the next start; `tight` stays as it was where it is not given.

    Raises:
        OSError: this PC's state folder cannot be written.
    """
    if tight is None:
        before = kept_row(key)
        tight = before is not None and before.tight
    _write_row(key, SpeedRow(**asdict(speed), tight=tight, begun=begun))


def keep_others(key: dict[str, Any], devices: Sequence[str], speeds: Sequence[Speed]) -> None:
    """Keep the speeds of the other workers' devices here as well, so that `vr plan` knows them on every PC.

    Args:
        key: of this device.
        devices: of all ranks.
        speeds: of all ranks.
    """
    for name, speed in zip(devices, speeds, strict=True):
        other = key | {"device": name}
        known = kept_row(other)
        if other != key and (known is None or known.elsewhere):
            with contextlib.suppress(OSError):
                _write_row(other, SpeedRow(**asdict(speed), elsewhere=True))


def note_begin(key: dict[str, Any]) -> None:
    """Steps of the kept size come next: where this start dies before one is taken, it was too much."""
    kept = kept_row(key)
    if kept is not None and kept.tight:
        keep_or_note(key, kept.speed, begun=True)


def note_end(key: dict[str, Any], *, too_much: bool = False) -> None:
    """The kept size has been enough for a step, or something else has ended the start; `too_much`: it was not."""
    kept = kept_row(key)
    if kept is not None and too_much:
        keep_or_note(key, kept.speed, tight=True, begun=True)
    elif kept is not None and kept.begun:
        keep_or_note(key, kept.speed)


def keep_or_note(key: dict[str, Any], speed: Speed, *, tight: bool | None = None, begun: bool = False) -> None:
    """Keep a measurement where that can be; it is made again otherwise."""
    try:
        keep_speed(key, speed, tight=tight, begun=begun)
    except OSError as error:
        print(f"the speed of this device is measured again at the next start: {error}", file=sys.stderr, flush=True)


def _write_row(key: dict[str, Any], row: SpeedRow) -> None:
    _file(key).parent.mkdir(exist_ok=True)
    write_json(_file(key), {"key": key, "speed": plain(row)})


def _file(key: dict[str, Any]) -> Path:
    return state_folder() / "speeds" / f"{digest(key, 16)}.json"


def processor_name() -> str:
    """Of this PC, as measurements without a card are kept under it; `cpu` where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "cpu"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "cpu")
