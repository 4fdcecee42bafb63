"""Arguments and options that several `vr data` commands take."""

from pathlib import Path
from typing import Annotated

import typer

from dataprep.roles import USUAL_SPLIT

Data = Annotated[Path, typer.Argument(metavar="DATA", help="A data set's folder.")]
Sources = Annotated[list[Path], typer.Argument(metavar="SRC", help="Folders of music, or audio files.")]
Layout = Annotated[
    str,
    typer.Option(
        help="How songs lie in folders (dataprep/GUIDE.md): auto, stems, musdb, pairs, unpaired, folders or flat."
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Fractions with a seed, a file of lines `train|valid|test SONG_OR_PATTERN`, or a data set to take it "
        "from.",
        show_default=f"{USUAL_SPLIT}, or the train/ and test/ folders of the sources",
    ),
]
KeepSuspicious = Annotated[
    bool,
    typer.Option("--keep-suspicious", help="Take songs whose mixture and stem sound like two songs; else left out."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say which file becomes which stem of which song, and do nothing.")
]
Workers = Annotated[int, typer.Option(min=0, help="Number of processes; 0: one for each core.")]
Cluster = Annotated[
    bool,
    typer.Option(
        "--cluster", help="Prepare on all PCs of the running cluster, from shared storage; without it on this one."
    ),
]
