"""Arguments and options that several `vr data` commands take."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[Path, typer.Argument(metavar="DATA", help="A data set's folder.")]
Sources = Annotated[list[Path], typer.Argument(metavar="SRC...", help="Folders of music, or audio files.")]
Layout = Annotated[str, typer.Option(help="auto, stems, musdb, pairs, unpaired or flat (dataprep/GUIDE.md).")]
Split = Annotated[
    str, typer.Option(help="Fractions with a seed, or a file of lines `train|valid|test SONG_OR_PATTERN`.")
]
SPLIT = "valid=0.1,test=0.1,seed=0"
Workers = Annotated[int, typer.Option(min=0, help="Processes; 0: one for each core.")]
Cluster = Annotated[
    bool, typer.Option("--cluster", help="On all PCs of the running cluster; songs and data set on shared storage.")
]
