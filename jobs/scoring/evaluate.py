"""Scores of a checkpoint on songs with known stems, from the files that separation writes."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dataprep.audio.decoders import AudioSource
from dataprep.audio.files import open_audio, probe
from dataprep.audio.tracks import Track, Tracks, about_no_audio, find_tracks
from dataprep.errors import DataError
from dataprep.preparing.song import SILENT_DB, open_stems
from dataprep.roles import ROLES, SPLITS
from dataprep.shards.dataset import Dataset
from dataprep.shards.manifest import FILE as MANIFEST
from jobs.errors import FolderTaken, NoSongs
from jobs.runs.lookup import resolve_weights
from jobs.scoring.results import STEMS, fitting_with_digest, read_record
from jobs.scoring.separate import OutputSettings, SeparatedSong, pick_device, separate_song
from vr_core.audio.metrics import Score, mean_db
from vr_core.audio.stems import given_stems
from vr_core.errors import StorageError, VrError, WeightsError
from vr_core.files import require_no_links, write_json
from vr_core.loading import load_model
from vr_core.small_files import DamagedFile
from vr_core.specs.stft import StftSpec
from vr_core.weights import DIGEST_DIGITS, WeightsMeta, require_separation

FILE = "eval.json"
SCORES = ("sdr_db", "si_sdr_db", "do_nothing_db", "improvement_db", "vocals_sdr_db")

Bar = Callable[[dict[str, float]], AbstractContextManager[Callable[[str, float], None]]]
"""From the seconds of each song to a context that gives a function to call with a song and its seconds done."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a checkpoint."""

    songs: list[dict[str, Any]]
    """`id` and `SCORES` of each song; a score is None where a stem is silent and the score says nothing."""
    problems: list[tuple[str, str]]
    """Songs without a score, and why."""
    folder: Path
    """Holds the separated files and `eval.json`."""
    trained_on: list[str]
    """Songs that the weights were trained on, as far as they say it: scores of these say nothing of new songs."""
    note: str | None = None
    """What is to be said of the weights."""
    left_out: tuple[str, ...] = ()
    """What a folder holds beside the songs that can be scored, a line each."""
    stems_not_scored: tuple[str, ...] = ()
    """Stems that the weights give and no song is known in."""

    def plain(self) -> dict[str, Any]:
        """`songs`, `mean`, `trained_on` and `stems_not_scored`; a mean is over the songs that have the score."""
        mean = {name: mean_db(song[name] for song in self.songs) for name in SCORES}
        return {
            "songs": self.songs, "mean": mean, "trained_on": self.trained_on,
            "stems_not_scored": list(self.stems_not_scored),
        }  # fmt: skip


def no_bar(seconds: dict[str, float]) -> AbstractContextManager[Callable[[str, float], None]]:
    """A `Bar` that shows nothing."""
    return nullcontext(lambda song, done_s: None)


def no_question(files: Iterable[Path]) -> None:
    """All files may be read: the caller knows them."""


def evaluate(
    checkpoint: Path,
    data: Path,
    split: str = "test",
    out: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    bar: Bar = no_bar,
    may_read: Callable[[Iterable[Path]], None] = no_question,
) -> Evaluation:
    """Separate the songs of `data` into files, score the files, and store `eval.json` beside them.

    Args:
        checkpoint: a run folder, a step folder or a weights file.
        data: a folder of songs with stems.
        split: which songs of a data set.
        out: where the files go; by default `eval/step-N` in the run folder (beside a weights file on its own).
        device: where to compute.
        bar: shows how far it is.
        may_read: is called with the songs' files before any is read; what it raises ends the evaluation.

    Raises:
        NotACheckpoint, WeightsError: the checkpoint cannot be used, is of a pretraining run, or gives neither
            instrumental nor vocals.
        NoSongs: nothing in `data` has stems.
        DataError: `data` is missing, or its STFT settings are not the model's.
        FolderTaken: `out` holds a file of somebody else where one of ours would go.
    """
    weights = resolve_weights(checkpoint)
    chosen = pick_device(device)
    model, meta = load_model(weights, chosen)
    note = require_separation(meta, str(checkpoint))
    given = given_stems(model.head.stems).names
    if not set(STEMS) <= set(given):
        raise WeightsError(
            f"{checkpoint}: gives {', '.join(given)}, and scores are of {' and '.join(STEMS)}; give weights that "
            "answer with one of these"
        )
    left_out: list[str] = []
    songs = labelled_songs(data, split, None if meta.model.front.stft else meta.stft, left_out)
    known = stem_digests(data)
    may_read(source.path for song in songs for heard in song.stems.values() for source in heard)
    folder = out or default_folder(weights, meta)
    require_free(folder, songs, ours=out is None or (folder / FILE).is_file())
    if out is None:  # in the run's folder, where others may write
        require_no_links(folder.parents[2], folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made ({error.strerror}); choose another place with --out") from None
    output = OutputSettings(folder, picture=False)
    scored: list[dict[str, Any]] = []
    problems: list[tuple[str, str]] = []
    trained_on: list[str] = []
    result = Evaluation(
        scored, problems, folder, trained_on, note, tuple(left_out), tuple(stem for stem in given if stem not in STEMS)
    )

    def store() -> None:
        write_json(folder / FILE, {
            **result.plain(), "problems": [{"id": name, "why": why} for name, why in problems],
            "weights": str(weights), "run": meta.run, "step": meta.step, "data": str(data.absolute()), "split": split,
            "time_s": time.time(),
        })  # fmt: skip

    if not (folder / FILE).exists():  # it says whose the folder is, also where the work is broken off
        store()
    with bar({song.id: _seconds(song) for song in songs}) as report:
        for song in songs:
            try:
                files = separate_song(
                    partial(open_mixture, song, meta.stft.sample_rate_hz), song.id, model, meta, output, chosen,
                    partial(report, song.id),
                )  # fmt: skip
                row, digests = score_song(song, files, meta.stft.sample_rate_hz)
                scored.append(row)
                if not (digests | known.get(song.id, set())).isdisjoint(meta.trained_on):
                    trained_on.append(song.id)
            except (VrError, OSError) as error:
                problems.append((song.id, str(error)))
    store()
    return result


def require_free(folder: Path, songs: Iterable[Track], *, ours: bool) -> None:
    """Refuse a folder in which files of an evaluation would replace those of somebody else.

    Args:
        folder: where the files of the evaluation go.
        songs: what is scored.
        ours: whether the folder is one of evaluations: then only what `vr separate` wrote is in the way, and the songs.

    Raises:
        FolderTaken: it is.
    """
    heard = {os.path.realpath(source.path) for song in songs for stem in song.stems.values() for source in stem}
    endings = [f".{stem}.wav" for stem in STEMS]
    try:
        separated = set(read_record(folder).files)
    except DamagedFile:  # then any of its files may be one
        separated, ours = set(), False
    for song in songs:
        stem = fitting_with_digest(folder, song.id, endings)
        for path in (folder / f"{stem}{ending}" for ending in endings):
            taken = path.name in separated or os.path.realpath(path) in heard or not ours
            if taken and path.is_file():
                raise FolderTaken(
                    f"{path}: is no file of an evaluation, and would be replaced; give another folder with --out"
                )


def stem_digests(data: Path) -> dict[str, set[str]]:
    """Digest of each stem of each song of a data set, as weights name what they were trained on; none of a folder."""
    if not (data / MANIFEST).is_file():
        return {}
    return {
        song.id: {stem.content_sha256[:DIGEST_DIGITS] for stem in song.stems.values()}
        for song in Dataset.open(data).manifest.songs
    }


def score_song(song: Track, files: SeparatedSong, sample_rate_hz: int) -> tuple[dict[str, Any], set[str]]:
    """Scores of a song's files against its original stems, over the whole song, and the digests of these stems.

    A song whose vocals are silent has nothing to remove: the mixture is the instrumental, and only the instrumental's
    own scores mean something.
    """
    instrumental, vocals, nothing = Score(), Score(), Score()
    streams = (
        open_stems(song, sample_rate_hz),
        open_audio(AudioSource(files.stems["instrumental"]), sample_rate_hz),
        open_audio(AudioSource(files.stems["vocals"]), sample_rate_hz),
    )
    hashes = {role: hashlib.sha256() for role in ROLES}
    for true, instrumental_estimate, vocals_estimate in zip(*streams, strict=True):
        for role, block in true.items():
            hashes[role].update(np.ascontiguousarray(block.T).data)  # as preparation has it (`content_sha256`)
        instrumental.update(true["instrumental"], instrumental_estimate)
        vocals.update(true["vocals"], vocals_estimate)
        nothing.update(true["instrumental"], true["mixture"])
    sung = vocals.reference_db() >= SILENT_DB
    sdr, do_nothing = instrumental.sdr_db(), nothing.sdr_db() if sung else None
    scores = {
        "id": song.id,
        "sdr_db": sdr,
        "si_sdr_db": instrumental.si_sdr_db(),
        "do_nothing_db": do_nothing,
        "improvement_db": None if sdr is None or do_nothing is None else sdr - do_nothing,
        "vocals_sdr_db": vocals.sdr_db() if sung else None,
    }
    return scores, {taken.hexdigest()[:DIGEST_DIGITS] for taken in hashes.values()}


def open_mixture(song: Track, sample_rate_hz: int) -> Iterator[NDArray[np.float32]]:
    """The mixture of a song with stems, `[2, sample]` blocks; errors as `open_stems`."""
    return (blocks["mixture"] for blocks in open_stems(song, sample_rate_hz))


def labelled_songs(data: Path, split: str, stft: StftSpec | None, left_out: list[str] | None = None) -> Sequence[Track]:
    """Songs whose stems are known, of one split of a data set, or all of a plain folder of music, which has no splits.

    Two roles give the third, as in preparation: a mixture and its instrumental are enough. `left_out` gets what else a
    folder holds, a line each.

    Raises:
        NoSongs: there is none.
        DataError: the folder is missing or holds no audio; a data set is damaged or has other settings than `stft`.
    """
    if (data / MANIFEST).is_file():
        dataset = Dataset.open(data)
        if stft is not None:
            dataset.check(stft)
        where = f"{data}, split {split} of {', '.join(SPLITS)}"
        tracks: Iterable[Track] = (song.track() for song in dataset.manifest.songs if song.split == split)
    else:
        where = str(data)
        found = find_tracks([data])
        tracks = found.tracks
        if left_out is not None:
            left_out += _left_out(found)
    songs = [track for track in tracks if len(track.stems) > 1]
    if not songs:
        raise NoSongs(f"{where}: no song with two of vocals, instrumental and mixture; scores need the original stems")
    return songs


def _left_out(found: Tracks) -> Iterator[str]:
    yield from (f"not used: {path}: {why}" for path, why in found.problems)
    alone = [track.id for track in found.tracks if len(track.stems) < 2]
    if alone:
        yield f"passed over, one stem alone has no score: {len(alone)} songs, such as {alone[0]}"
    if no_audio := about_no_audio(found.passed_over):
        yield no_audio


def default_folder(weights: Path, meta: WeightsMeta) -> Path:
    """Where the files of an evaluation go: in the run's folder, or beside weights that stand on their own."""
    run = weights.parents[2] if len(weights.parents) > 2 else weights.parent
    home = run if weights.parent.parent == run / "checkpoints" else weights.parent
    return home / "eval" / f"step-{meta.step:08d}"


def _seconds(song: Track) -> float:
    """Length as the header says, 0 where it does not: for a progress bar."""
    try:
        info = probe(next(iter(song.stems.values()))[0])
    except DataError:
        return 0.0
    return (info.samples or 0) / info.sample_rate_hz
