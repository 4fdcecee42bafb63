"""What users have of runs, a search, recipes and ids, as the code wrote them when `kept/` was recorded.

    kept/ids.json             key → digest of the recipe, and id of its first run
         recipes/KEY.yaml     the resolved recipes of these ids
         runs/                a finished run, one that was killed, one of `diloco` with its workers' parts, a search
         undisturbed/         losses and weights of the killed ones' recipes, trained without a break
         data.json            digest of the recorded data set, and SHA-256 of the frames of each stem
         separated.safetensors   what `separated` makes of a song with the finished run's weights

`python -m tests.recorded.keep FOLDER` writes them anew. Paths begin with `PLACE`, and drivers lived since `BOOT`.
"""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import open_audio
from dataprep.shards.columns import CHANNELS, COLUMNS
from dataprep.shards.dataset import Dataset
from jobs.runs.folder import RunFolder
from jobs.scoring.separate import OutputSettings, separate_song
from tests.jobs.training import last_weights
from tests.recorded.compare import BEFORE
from tests.recorded.runs import RATE_HZ, curve, relative_difference
from vr_core.loading import load_model

KEPT = Path(__file__).parent / "kept"
PLACE = "/where/it/was/recorded"
BOOT = "00000000-0000-0000-0000-000000000000"
NO_PROCESS = 2**22
"""Numbers of processes are less on any Linux (proc_sys_kernel(5): pid_max)."""


def lay_out(into: Path) -> Path:
    """Put all of it, with the data set, where it could have been written: into a folder of this PC, since it booted.

    Returns:
        The folder of run folders.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    for file in KEPT.rglob("*"):
        if file.is_file():
            target = into / file.relative_to(KEPT)
            target.parent.mkdir(parents=True, exist_ok=True)
            content = file.read_bytes()
            content = content.replace(PLACE.encode(), str(into).encode()).replace(BOOT.encode(), boot)
            if file.name == "driver.json":  # its process has ended; here another one may have its number
                content = json.dumps({**json.loads(content), "pid": NO_PROCESS}).encode()
            target.write_bytes(content)
    shutil.copytree(BEFORE / "data", into / "data")
    return into / "runs"


def run_called(name: str, runs: Path) -> RunFolder:
    """The one run of a recipe's name."""
    [path] = runs.glob(f"{name}-*")
    return RunFolder(path)


def separated(weights: Path, folder: Path) -> NDArray[np.float32]:
    """The instrumental `[sample, channel]` that weights make of a tenth of a second of a chord under noise."""
    time_s = np.arange(RATE_HZ // 10) / RATE_HZ
    chord = np.sin(2 * np.pi * np.outer(time_s, [220.0, 275.0, 330.0])).sum(1)
    noise = np.random.default_rng(1).standard_normal((len(time_s), 2))
    soundfile.write(folder / "song.wav", 0.1 * chord[:, None] + 0.05 * noise, RATE_HZ, "FLOAT")
    model, meta = load_model(weights)
    song = partial(open_audio, AudioSource(folder / "song.wav"), RATE_HZ)
    parts = separate_song(song, "song", model, meta, OutputSettings(folder, picture=False))
    instrumental: NDArray[np.float32] = soundfile.read(parts.stems["instrumental"], dtype="float32")[0]
    return instrumental


def require_as_undisturbed(run: RunFolder, name: str, within: float) -> None:
    """Check losses and weights of a run that has been gone on with against those of one that was never broken off.

    Raises:
        AssertionError: some differ by more than `within`, relative.
    """
    folder = KEPT / "undisturbed"
    assert relative_difference(json.loads((folder / f"{name}.json").read_text()), curve(run)) < within
    wanted, found = load_file(folder / f"{name}.safetensors"), last_weights(run)
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(
            found[key], value, rtol=within, atol=within, msg=lambda text, key=key: f"{key}: {text}"
        )


def contents(folder: Path) -> dict[str, Any]:
    """What is read from a data set: its digest, and the SHA-256 of the frames of each stem as they are stored."""
    data = Dataset.open(folder)
    found = {}
    for song in data.manifest.songs:
        for role, stem in sorted(song.stems.items()):
            kinds = COLUMNS[data.manifest.codec_of(role)]
            out = np.empty((len(kinds), stem.frames, CHANNELS * data.stft.bins), next(iter(kinds.values())))
            data.read(song.id, role, 0, stem.frames, out)
            found[f"{song.id} {role}"] = hashlib.sha256(out.tobytes()).hexdigest()
    return {"digest": data.manifest.digest(), "frames": found}


def ids() -> dict[str, dict[str, str]]:
    """Digest of the recipe and id of the first run, by key."""
    found: dict[str, dict[str, str]] = json.loads((KEPT / "ids.json").read_text())
    return found
