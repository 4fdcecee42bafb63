"""What weights say of their making: purpose, data set, the songs of the run and of those that it began with."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dataprep.shards.manifest import read_manifest
from jobs.runs.folder import RunFolder
from jobs.runs.lookup import resolve_weights
from jobs.training.lineage import describe, trained_on
from tests.command_line import vr
from tests.jobs.training import here, new_run, recipe_of
from vr_core.errors import WeightsError
from vr_core.specs.objectives import MaskedFramesSpec, SeparateSpec
from vr_core.weights import Parent, load_weights, read_meta, require_separation

SHORT = {"steps": 2, "validation.every_steps": 2}


@pytest.fixture(scope="module")
def runs(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    """A pretraining run, and one that began with its weights."""
    folder = tmp_path_factory.mktemp("runs")
    first = new_run(
        folder / "before-1", recipe_of(tiny_data, name="before", objective={"name": "masked_frames"}, **SHORT)
    )
    here(first)
    init = str(resolve_weights(first.path))
    second = new_run(folder / "after-1", recipe_of(tiny_data, name="after", init=init, **SHORT))
    here(second)
    return first, second


def digests(data: Path, split: str, *roles: str) -> set[str]:
    """By the manifest's own JSON."""
    songs = json.loads((data / "manifest.json").read_text())["songs"]
    return {song["stems"][role]["content_sha256"][:16] for song in songs if song["split"] == split for role in roles}


def test_weights_say_purpose_data_songs_and_what_they_began_with(runs, tiny_data):
    before, after = (read_meta(resolve_weights(run.path)) for run in runs)
    assert (before.purpose, after.purpose) == ("pretraining", "separation")
    assert before.data == after.data == read_manifest(tiny_data).digest()
    assert before.parents == ()
    assert after.parents == (Parent(run="before-1", step=2, purpose="pretraining", data=before.data),)
    mixtures, stems = digests(tiny_data, "train", "mixture"), digests(tiny_data, "train", "vocals", "instrumental")
    assert set(before.trained_on) == mixtures
    assert set(after.trained_on) == mixtures | stems
    assert len(mixtures | stems) == 9
    assert load_weights(resolve_weights(runs[1].path))[1] == after


def test_a_checkpoint_grows_by_less_than_a_hundred_bytes_a_song_and_names_none(runs, tiny_data):
    path = resolve_weights(runs[1].path)
    header = path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")]
    meta = read_meta(path)
    said = len(json.dumps(list(meta.trained_on)))
    assert said < 100 * 3
    for song in read_manifest(tiny_data).songs:
        assert song.id.encode() not in header


def test_silence_which_songs_share_is_no_song(tiny_data):
    manifest = read_manifest(tiny_data)
    song = next(song for song in manifest.songs if song.split == "train")
    silent = song.stems["vocals"].model_copy(update={"loudness_db": -120.0})
    quiet = song.model_copy(update={"stems": {**song.stems, "vocals": silent}})
    others = tuple(quiet if other is song else other for other in manifest.songs)
    missing = trained_on(manifest, SeparateSpec()) - trained_on(
        manifest.model_copy(update={"songs": others}), SeparateSpec()
    )
    assert missing == {silent.content_sha256[:16]}
    assert trained_on(manifest, MaskedFramesSpec()).isdisjoint(trained_on(manifest, SeparateSpec()))


def test_a_run_that_goes_on_knows_its_parents_when_their_file_is_gone(runs, tiny_data, tmp_path):
    after, recipe = runs[1], runs[1].recipe()
    gone = recipe.model_copy(update={"init": tmp_path / "gone.safetensors"})
    told: list[str] = []
    manifest = read_manifest(tiny_data)
    described = describe(after, gone, manifest, told.append)
    assert described == read_meta(resolve_weights(after.path)).model_copy(update={"step": 0})
    assert told == []
    alone = describe(new_run(tmp_path / "new-1", gone), gone, manifest, told.append)
    assert (alone.parents, set(alone.trained_on)) == ((), digests(tiny_data, "train", "vocals", "instrumental"))
    assert len(told) == 1
    assert "gone.safetensors" in told[0]


def test_a_pretraining_run_separates_nothing_and_is_told_what_to_do(runs, tmp_path):
    soundfile.write(tmp_path / "song.wav", 0.1 * np.random.default_rng(0).standard_normal((44_100, 2)), 44_100)
    words = ("separate", tmp_path / "song.wav", "-o", tmp_path / "out", "--device", "cpu", "-m")
    said = vr(*words, runs[0].path, code=2)
    assert "is of the pretraining run before-1, which separates nothing by itself" in said.stderr
    assert f"`vr submit songs-finetune data=DATA init={runs[0].path}`" in said.stderr
    assert not (tmp_path / "out").exists()
    said = vr(*words, runs[1].path)
    assert "does not say" not in said.stderr
    assert (tmp_path / "out" / "song.vocals.wav").is_file()


@pytest.mark.parametrize("command", [("eval",), ("data", "check")])
def test_scoring_with_a_pretraining_run_is_refused_too(runs, tiny_data, tmp_path, command, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    words = (runs[0].path, tiny_data, "--yes") if command == ("eval",) else (tiny_data, "-m", runs[0].path)
    said = vr(*command, *words, "--device", "cpu", code=2)
    assert "which separates nothing by itself" in said.stderr


def test_songs_that_were_trained_on_are_told_with_their_scores(runs, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    splits = {song.id: song.split for song in read_manifest(tiny_data).songs}
    for split, known in (("train", sorted(i for i, s in splits.items() if s == "train")), ("test", [])):
        words = ("eval", runs[1].path, tiny_data, "--split", split, "--out", tmp_path / split, "--yes", "--json")
        said = vr(*words, "--device", "cpu")
        assert json.loads(said.stdout)["trained_on"] == known
        assert ("say nothing of new songs" in said.stderr) == bool(known)
        assert json.loads((tmp_path / split / "eval.json").read_text())["trained_on"] == known
    # A plain folder of the same music has no manifest: its samples tell.
    music = tiny_data.parent / "songs"
    said = vr("eval", runs[1].path, music, "--out", tmp_path / "folder", "--yes", "--json", "--device", "cpu")
    assert json.loads(said.stdout)["trained_on"] == sorted(i for i, s in splits.items() if s == "train")


def test_a_file_that_does_not_say_is_used_with_a_note(runs):
    meta = read_meta(resolve_weights(runs[1].path))
    assert require_separation(meta, "x") is None
    note = require_separation(meta.model_copy(update={"purpose": None}), "old.safetensors")
    assert note is not None
    assert note.startswith("old.safetensors: does not say what it was trained for")
    with pytest.raises(WeightsError, match="pretraining"):
        require_separation(meta.model_copy(update={"purpose": "pretraining"}), "x")
