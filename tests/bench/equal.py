"""Our models beside those of published packages, with equal weights: the largest difference of what they say.

audio-separator 0.47.1 holds the networks that people run published files with. BS-RoFormer 1.2.4 is not compared: its
models have residual streams and value residuals, which no published file has. The packages are in an environment
apart, and never a dependency of ours. `python -m tests.bench.equal` writes `tests/recorded/published` anew.
"""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from torch import Tensor

from tests.bench.measurement import ROOT, Benchmark
from tests.bench.peers import Environment
from tests.published import CASES, RECORDED, Case, digest, fill, song
from vr_core.audio.sound import Sound, heard_by
from vr_core.audio.spectrogram import istft, stft
from vr_core.models.model import Model
from vr_core.models.registry import build
from vr_core.specs.heads import HeadSpec
from vr_core.specs.models import ModelSpec

PUBLISHED = Environment(
    "published",
    ("audio-separator==0.47.1", "einops==0.8.2", "rotary-embedding-torch==0.6.5", "beartype", "packaging"),
    dependencies=False,
)
GOAL = 1e-4
"""Of the largest value; both compute in float32."""


def ours(case: Case) -> tuple[Tensor, str]:
    """What our model says of the case's song, from samples to samples or to a mask, and the digest of its names."""
    spec: ModelSpec = TypeAdapter(ModelSpec).validate_python({"name": case.kind, **case.spec})
    assert spec.stft is not None
    model = build(spec, spec.stft.bins + 1, HeadSpec(**case.head)).eval()
    state = model.state_dict()
    fill(state)
    with torch.inference_mode():
        return _said(case, model), digest(state)


def _said(case: Case, model: Model) -> Tensor:
    settings = model.front.stft
    assert settings is not None
    # Without its last hop of zeros, which our STFT appends by itself.
    signal = song(case)[:, : -case.hop]
    mixture = torch.cat([part.unsqueeze(1) if part.ndim == 2 else part for part in stft(signal, settings)], dim=1)
    [answer] = model(heard_by(model.front, Sound(settings, mixture.abs()[None], mixture[None]))).values()
    if case.kind == "cascaded_net":
        return answer[..., 8:24]
    stems = answer * mixture
    return istft(stems[..., :-1, :], signal.shape[-1], settings, stems[..., -1, :])


def difference(said: Tensor, recorded: Tensor) -> float:
    """The largest, over the largest value."""
    recorded = recorded[..., : said.shape[-1]]
    return float((said - recorded).abs().max() / recorded.abs().max())


def read(path: Path) -> tuple[Tensor, str]:
    """What a published model said, and the digest of its names and shapes."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("said"), file.metadata()["digest"]


def write(folder: Path) -> None:
    """What the published models say, a file for each case."""
    PUBLISHED.install()
    argv = [PUBLISHED.python(), "-W", "ignore", "-m", "tests.bench.published_run", folder]
    subprocess.run(argv, cwd=ROOT, check=True)


def measure(quick: bool) -> dict[str, Any]:
    """The goal over the worst difference; all cases are small."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        for case in CASES:
            published, names = read(folder / f"{case}.safetensors")
            said, own_names = ours(CASES[case])
            assert own_names == names, case
            found[case] = difference(said, published)
    return {"ratio": GOAL / max(found.values()), "goal": GOAL} | found | {"versions": PUBLISHED.versions()}


BENCHMARK = Benchmark("the goal of 1e-4 over the largest difference from published models", measure, PUBLISHED.install)

if __name__ == "__main__":
    RECORDED.mkdir(exist_ok=True)
    write(RECORDED)
