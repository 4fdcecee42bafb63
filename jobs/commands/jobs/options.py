"""Arguments and options that several commands of runs take."""

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of one that comes with vr.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Replace keys of the recipe, such as steps=100.", show_default="the recipe as it is"
    ),
]
Again = Annotated[
    bool, typer.Option("--again", help="Repeat a recipe that was run before; without it that is refused.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and do nothing.")]
Out = Annotated[Path, typer.Option("--out", help="Folder that holds the run folders.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or folder.")]
RUNS = Path("runs")
"""As `jobs.recipe.RUNS`, which takes longer to import than a command's help may."""
