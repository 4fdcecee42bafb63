"""Fifty files of every kind and name, in one call: each is done, or named with its reason; so says the exit code."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dataprep.shards.manifest import read_manifest
from jobs import cli
from tests.jobs.fifty_files import write_all
from tests.jobs.music import SMALL
from vr_core.models.registry import build
from vr_core.specs.models import PlainStackSpec
from vr_core.specs.stft import StftSpec
from vr_core.weights import WeightsMeta, save_weights

META = WeightsMeta(
    model=PlainStackSpec(width=4, blocks=1), stft=StftSpec(sample_rate_hz=8000, n_fft=128, hop=64),
    crop_frames=32, step=7, run="tiny-1",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made = write_all(tmp_path_factory.mktemp("fifty"))
    assert len(made) == 50
    return made


def vr(*words: object):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_every_file_that_is_named_is_separated_or_named_with_its_reason(files, tmp_path):
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_weights(weights, build(META.model, META.stft.bins).state_dict(), META)
    missing = tmp_path / "not there.wav"
    said = vr("separate", *(path for path, _ in files), missing, "-m", weights, "-o", tmp_path / "out", "--no-picture",
              "--json")  # fmt: skip
    assert said.exit_code == 1
    told = json.loads(said.stdout)
    done = {song["song"]: song for song in told["songs"]}
    problems = {problem["song"]: problem["why"] for problem in told["problems"]}
    assert set(done) | set(problems) == {str(path) for path, _ in files} | {str(missing)}
    assert not set(done) & set(problems)
    assert "does not exist" in problems[str(missing)]
    for path, file in files:
        if file.refused is None:
            assert str(path) in done, problems.get(str(path))
            assert done[str(path)]["seconds"] == pytest.approx(file.seconds, abs=0.05), file.name
        else:
            assert file.refused in problems.get(str(path), "was done"), file.name
            assert problems[str(path)] in said.stderr
    results = [Path(song[kind]) for song in done.values() for kind in ("instrumental", "vocals")]
    assert len(set(results)) == 2 * len(done)
    assert all(result.is_file() for result in results)


def test_every_file_that_is_named_is_prepared_or_named_with_its_reason(files, tmp_path):
    out = tmp_path / "data"
    said = vr("data", "prepare", *(path for path, _ in files), "--layout", "flat", "--out", out, *SMALL, "--json")
    assert said.exit_code == 1
    told = json.loads(said.stdout)
    songs = {str(song.sources["mixture"][0].path): song for song in read_manifest(out).songs}
    refused = " ".join(entry["why"] for entry in (*told["refused"], *told["passed_over"]))
    for path, file in files:
        if file.refused is None:
            assert str(path) in songs, file.name
            assert songs[str(path)].samples / 44_100 == pytest.approx(file.seconds, abs=0.05), file.name
        else:
            assert str(path) not in songs, file.name
            assert str(path) in refused, file.name
    assert len(songs) + len(told["refused"]) + len(told["passed_over"]) == len(files)
