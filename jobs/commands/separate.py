"""`vr separate`: songs into their stems."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs.commands.progress import song_progress
from jobs.commands.terminal import Device, Json, say

if TYPE_CHECKING:
    import torch

    from jobs.scoring.results import Placed
    from jobs.scoring.separate import OutputSettings, SeparatedSong
    from jobs.scoring.songs import Found, Song
    from vr_core.models.model import Model
    from vr_core.weights import WeightsMeta


def separate(
    songs: Annotated[list[Path], typer.Argument(metavar="SONG", help="Audio files, or folders: all audio in them.")],
    checkpoint: Annotated[
        Path,
        typer.Option("--checkpoint", "-m", help="A run's name or folder, a checkpoint folder or weights.safetensors."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if it is not there.")],
    file_format: Annotated[
        Literal["wav", "flac"], typer.Option("--format", help="Kind of file that is written.")
    ] = "wav",
    subtype: Annotated[
        str | None,
        typer.Option(
            help="Sample format: FLOAT (wav only), PCM_24 or PCM_16.", show_default="FLOAT for wav, PCM_24 for flac"
        ),
    ] = None,
    rate: Annotated[
        Literal["song", "model"], typer.Option(help="Sample rate of the results: the song's own, or the model's.")
    ] = "song",
    normalise: Annotated[
        bool,
        typer.Option(
            "--normalise", help="Lower all files by one gain until none is beyond full scale; never raise them."
        ),
    ] = False,
    picture: Annotated[bool, typer.Option(help="Also draw mixture and stems as spectrograms.")] = True,
    stems: Annotated[
        str | None,
        typer.Option(
            help="Stems to write, such as vocals,drums; all: every one that the weights give.",
            show_default="instrumental,vocals where the weights give them, else all",
        ),
    ] = None,
    window_s: Annotated[
        float | None,
        typer.Option(
            "--window-s",
            min=0.01,
            help="What the model hears at once, in seconds; longer is better, as far as memory goes.",
            show_default="as in its training",
        ),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Separate songs into instrumental and vocals, or other stems.

    Instrumental and vocals sum to the song, PCM within half a step. PCM and flac clip what is beyond full scale. It
    is counted and told, and --normalise avoids it. The files are stereo, also those of a mono song, at the song's own
    sample rate.

    A file that is named is separated whatever it is called. Of a folder, what an earlier separation wrote is passed
    over. What could not be separated is listed at the end, and the others are done.

    A song that is separated again into one folder replaces its results. Those of another song stay, also of one that
    was in the same file before, and the new ones are called NAME-2.

    Example: vr separate song.mp3 -m runs/songs-finetune-1a2b3c4d-1 -o separated
    """
    from dataprep.audio.tracks import about_no_audio
    from jobs.errors import NoSongs, SongsFailed
    from jobs.scoring.results import read_record, scratch
    from jobs.scoring.separate import OutputSettings, chosen_stems, pick_device, windows_for
    from jobs.scoring.separator import load_separator
    from jobs.scoring.songs import find_songs
    from vr_core.audio.stems import given_stems
    from vr_core.small_files import DamagedFile

    wanted = None if stems is None else tuple(stem.strip() for stem in stems.split(",") if stem.strip())
    output = OutputSettings(out, file_format, _subtype(file_format, subtype), picture, normalise, wanted, window_s)
    found = find_songs(songs)
    if found.passed_over:
        say(
            f"passed over {len(found.passed_over)} files that an earlier separation wrote; name one to separate it",
            err=True,
        )
    if no_audio := about_no_audio(found.no_audio):
        say(no_audio, err=True)
    if not found.songs and not found.problems:
        raise NoSongs(f"{songs[0]}: holds only what a separation wrote; name the songs themselves")
    batch = _Batch(list(found.songs), [{"song": str(path), "why": why} for path, why in found.problems])
    if not found.songs:
        if len(batch.problems) == 1 and not as_json:
            raise NoSongs(batch.problems[0]["why"])
        batch.end(found, as_json)
        raise NoSongs("there is no song to separate; see the lines above")
    chosen = pick_device(device)
    model, meta = load_separator(checkpoint, chosen, partial(say, err=True))
    chosen_stems(given_stems(model.head.stems), wanted)  # what is wrong with the options is said before any work
    windows_for(meta, window_s)
    with scratch(out):  # where nothing can be written, no work is begun
        pass
    try:
        read_record(out)
    except DamagedFile as error:
        say(f"note: {error}; it is kept under another name, and no result that is there is replaced", err=True)
    try:
        rate_hz = None if rate == "song" else meta.stft.sample_rate_hz
        _separate_all(batch, rate_hz, partial(_separate_one, model, meta, output, chosen), file_format, as_json)
    finally:
        # Also after Ctrl-C: what was done is told, and what was not.
        batch.end(found, as_json)
    if batch.problems:
        count = f"{len(batch.problems)} of {len(batch.problems) + len(batch.done)} songs were not separated"
        raise SongsFailed(f"{count}; see the lines above")


@dataclass
class _Batch:
    """How far the songs of one command are."""

    waiting: "list[Song]"
    problems: list[dict[str, str]]
    done: list[dict[str, Any]] = field(default_factory=list)

    def fail(self, song: "Song", why: str) -> None:
        self.waiting.remove(song)
        self.problems.append({"song": str(song.path), "why": why})

    def end(self, found: "Found", as_json: bool) -> None:
        """Tell what was not done, and to a program also what was."""
        interrupted = bool(self.waiting)
        for song in list(self.waiting):
            self.fail(song, f"{song.path}: broken off before it was done")
        if as_json:
            typer.echo(json.dumps({
                "songs": self.done, "problems": self.problems, "passed_over": len(found.passed_over),
                "no_audio": dict(found.no_audio), "interrupted": interrupted,
            }))  # fmt: skip
        for problem in self.problems:
            say(f"not separated: {problem['why']}", err=True)


def _separate_all(
    batch: _Batch,
    rate_hz: int | None,
    separate_one: "Callable[[Song, int, Callable[[float], None]], tuple[SeparatedSong, Placed]]",
    file_format: str,
    as_json: bool,
) -> None:
    """The waiting songs one after the other; what fails is a problem of that song.

    Args:
        batch: the songs.
        rate_hz: sample rate of the results; None: each song's own.
        separate_one: from a song, the rate of its results and a function to report seconds done to its results.
        file_format: checked before any song is begun.
        as_json: print no lines on stdout.
    """
    from dataprep.audio.decoders import AudioSource
    from dataprep.audio.files import probe
    from dataprep.audio.writing import require_fits
    from dataprep.errors import DataError
    from vr_core.errors import VrError

    labels: dict[str, tuple[Song, int]] = {}
    lengths_s: dict[str, float] = {}
    for song in list(batch.waiting):
        try:
            info = probe(AudioSource(song.path))
            require_fits(song.path, file_format, rate_hz or info.sample_rate_hz)
        except DataError as error:
            batch.fail(song, str(error))
            continue
        label = song.name if song.name not in labels else f"{song.name} ({len(labels) + 1})"
        labels[label] = song, rate_hz or info.sample_rate_hz
        lengths_s[label] = (info.samples or 0) / info.sample_rate_hz
    with song_progress(lengths_s) as report:
        for label, (song, hz) in labels.items():
            try:
                files, placed = separate_one(song, hz, partial(report, label))
            except DataError as error:
                batch.fail(song, str(error))
            except VrError as error:
                batch.fail(song, f"{song.path}: {error}")
            except OSError as error:
                place = f" ({error.filename})" if error.filename else ""
                batch.fail(song, f"{song.path}: {error.strerror or error}{place}")
            else:
                batch.waiting.remove(song)
                batch.done.append(_plain(song, files, placed))
                if not as_json:
                    for path in files.files().values():
                        typer.echo(str(path), file=sys.stdout)  # above the bar, where that is on this terminal
                for note in _notes(files, placed):
                    say(f"note: {song.path}: {note}", err=True)


def _separate_one(
    model: "Model",
    meta: "WeightsMeta",
    output: "OutputSettings",
    device: "torch.device",
    song: "Song",
    rate_hz: int,
    progress: "Callable[[float], None]",
) -> "tuple[SeparatedSong, Placed]":
    from dataprep.audio.decoders import AudioSource
    from dataprep.audio.files import open_audio
    from jobs.scoring.results import SongFile, place, scratch
    from jobs.scoring.separate import make_files

    with scratch(output.folder) as folder:
        known = SongFile.of(song.path)
        made = make_files(
            partial(open_audio, AudioSource(song.path)), rate_hz, song.name, model, meta, output, folder, device,
            progress,
        )  # fmt: skip
        placed = place(output.folder, known, song.name, made.files())
    return made.at(placed.files), placed


def _plain(song: "Song", files: "SeparatedSong", placed: "Placed") -> dict[str, Any]:
    stems = {stem: str(path) for stem, path in files.stems.items()}
    return {
        "song": str(song.path), "name": placed.name, "name_wanted": song.name, "stems": stems,
        "instrumental": stems.get("instrumental"), "vocals": stems.get("vocals"),
        "picture": str(files.picture) if files.picture else None, "seconds": round(files.seconds, 3),
        "sample_rate_hz": files.sample_rate_hz, "gain_db": files.gain_db, "clipped_samples": files.clipped_samples,
    }  # fmt: skip


def _notes(files: "SeparatedSong", placed: "Placed") -> Iterator[str]:
    """What a user would not expect of a song's results."""
    if placed.shortened:
        yield f"its results are called {placed.name}: the whole name is too long for a file"
    if placed.kept:
        whose = f"is of {placed.kept_song}" if placed.kept_song else "is of a song that is not known"
        whose += " as it was before it changed" if placed.kept_earlier else ""
        yield f"its results are called {placed.name}: {placed.kept} {whose}, and was kept"
    if files.gain_db:
        yield f"its results are {-files.gain_db:.2f} dB lower than the song, so that none is clipped"
    clipped = {stem: count for stem, count in files.clipped_samples.items() if count}
    if clipped:
        where = " and ".join(f"{count:,} samples of the {stem}" for stem, count in clipped.items())
        missed = "; they do not sum to the song there" if files.rest in clipped else ""
        yield f"{where} clipped{missed}; use --normalise, or wav with --subtype FLOAT"


def _subtype(file_format: Literal["wav", "flac"], subtype: str | None) -> str:
    from dataprep.audio.writing import FORMATS
    from vr_core.errors import ConfigError

    known = FORMATS[file_format].subtypes
    if subtype is not None and subtype not in known:
        raise ConfigError(f"--subtype {subtype}: a {file_format} file takes {', '.join(known)}")
    return subtype or known[0]
