"""`vr separate`: songs into instrumental and vocals."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from jobs.commands.progress import song_progress
from jobs.commands.terminal import Device, Json, say

if TYPE_CHECKING:
    from dataprep.audio.tracks import Track


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
    picture: Annotated[bool, typer.Option(help="Also draw mixture, vocals and instrumental as spectrograms.")] = True,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Separate songs into instrumental and vocals.

    The two files sum to the song. They are stereo, at the model's sample rate. Files that cannot be read are listed at
    the end, and the others are done.

    Example: vr separate song.mp3 -m runs/songs-finetune-1a2b3c4d-1 -o separated
    """
    import json

    from dataprep.audio.files import open_audio, probe
    from dataprep.errors import DataError
    from jobs.errors import SongsFailed
    from jobs.runs.lookup import resolve_weights
    from jobs.scoring.separate import OutputSettings, pick_device, separate_song
    from vr_core.weights import load_model

    output = OutputSettings(out, file_format, _subtype(file_format, subtype), picture)
    tracks, problems = _tracks(songs)
    chosen = pick_device(device)
    model, meta = load_model(resolve_weights(checkpoint), chosen)
    seconds = {}
    for track in tracks:
        try:
            info = probe(track.stems["mixture"][0])
            seconds[track.id] = (info.samples or 0) / info.sample_rate_hz
        except DataError as error:
            problems.append({"song": str(track.stems["mixture"][0]), "why": str(error)})
    done: list[dict[str, Any]] = []
    with song_progress(seconds) as report:
        for track in tracks:
            if track.id not in seconds:
                continue
            try:
                files = separate_song(
                    partial(open_audio, track.stems["mixture"][0], meta.stft.sample_rate_hz), track.id, model, meta,
                    output, chosen, progress=partial(report, track.id),
                )  # fmt: skip
            except DataError as error:
                problems.append({"song": str(track.stems["mixture"][0]), "why": str(error)})
                continue
            done.append({
                "song": str(track.stems["mixture"][0]), "instrumental": str(files.instrumental),
                "vocals": str(files.vocals), "picture": str(files.picture) if files.picture else None,
                "seconds": round(files.seconds, 3),
            })  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"songs": done, "problems": problems}))
    else:
        for song in done:
            typer.echo(song["instrumental"])
            typer.echo(song["vocals"])
            if song["picture"]:
                typer.echo(song["picture"])
    for problem in problems:
        say(f"not separated: {problem['why']}", err=True)
    if problems:
        raise SongsFailed(
            f"{len(problems)} of {len(problems) + len(done)} songs were not separated; see the lines above"
        )


def _subtype(file_format: Literal["wav", "flac"], subtype: str | None) -> str:
    from jobs.scoring.separate import SUBTYPES
    from vr_core.errors import ConfigError

    known = SUBTYPES[file_format]
    if subtype is not None and subtype not in known:
        raise ConfigError(f"--subtype {subtype}: a {file_format} file takes {', '.join(known)}")
    return subtype or known[0]


def _tracks(songs: Sequence[Path]) -> "tuple[list[Track], list[dict[str, str]]]":
    """Every song to separate under its own name, without what an earlier separation wrote."""
    from dataprep.audio.tracks import find_tracks
    from jobs.errors import NoSongs

    found = find_tracks(songs, layout="flat")
    ours = (".instrumental", ".vocals")
    tracks = [track for track in found.tracks if not track.stems["mixture"][0].path.stem.endswith(ours)]
    if not tracks:
        raise NoSongs(f"{songs[0]}: holds only what a separation wrote; name the songs themselves")
    return tracks, [{"song": str(path), "why": f"{path}: {why}"} for path, why in found.problems]
