"""Songs of noise, and data sets of them by `vr data`, in this process."""

import json
from pathlib import Path

import numpy as np
import soundfile
from typer.testing import CliRunner

from jobs.cli import data as app

RATE_HZ = 44_100
SMALL = ("--n-fft", "256", "--hop", "128")
"""Spectra of the smallest size that still are stereo music, for speed."""


def noise(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate_hz), 2))


def song(folder: Path, seconds: float = 1.0, seed: int = 0, **stems: np.ndarray | None) -> Path:
    """A song folder; `stems` replaces stems, or leaves one out with None."""
    folder.mkdir(parents=True)
    given = {"vocals": noise(seconds, 2 * seed), "instrumental": noise(seconds, 2 * seed + 1), **stems}
    for name, signal_ in given.items():
        if signal_ is not None:
            soundfile.write(folder / f"{name}.wav", signal_, RATE_HZ, subtype="FLOAT")
    return folder


def vr_data(*arguments: object):
    """Run `vr data` in this process; our own errors come out as they are."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def prepared(out: Path, *sources: Path, extra: tuple[object, ...] = ()) -> dict:
    result = vr_data("prepare", *sources, "--out", out, *SMALL, "--json", *extra)
    assert result.exit_code == 0, result.output
    value: dict = json.loads(result.stdout)
    return value
