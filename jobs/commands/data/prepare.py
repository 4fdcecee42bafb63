"""`vr data prepare`: music into a data set."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.data.options import Cluster, DryRun, KeepSuspicious, Layout, Sources, Split, Workers
from jobs.commands.data.planned import planned
from jobs.commands.data.report import dry_run_shown, prepare_shown
from jobs.commands.terminal import Json


def prepare(
    sources: Sources,
    out: Annotated[Path, typer.Option(help="Folder of the data set; running again goes on where it stopped.")],
    layout: Layout = "auto",
    split: Split = None,
    codec: Annotated[str, typer.Option(help="polar8 (compact) or complex16 (twice the size).")] = "polar8",
    mixture_codec: Annotated[
        str,
        typer.Option(
            "--mixture-codec",
            help="Of mixtures: magnitude8; polar8 and complex16 store phase too (2 and 4 times the size).",
        ),
    ] = "magnitude8",
    n_fft: Annotated[int, typer.Option(help="Length of a spectrum in samples.")] = 2048,
    hop: Annotated[int, typer.Option(help="Distance between spectra in samples.")] = 1024,
    mixture: Annotated[
        bool, typer.Option("--mixture/--no-mixture", help="Also store each mixture's magnitude, for pretraining.")
    ] = True,
    align: Annotated[
        bool,
        typer.Option(
            "--align", help="Move stems that lie up to 0.1 s before or after their mixture; without it they are noted."
        ),
    ] = False,
    keep_suspicious: KeepSuspicious = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with an error if a song cannot be used; without it they are listed."),
    ] = False,
    workers: Workers = 0,
    cluster: Cluster = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Turn music into a data set that training reads.

    It holds spectrograms. Songs that cannot be used are listed at the end, and the others are done. Ctrl-C loses no
    finished song. What it would do is told by --dry-run.

    Example: vr data prepare ~/music/stems --out data --split valid=0.1,seed=7
    """
    from dataprep.preparing.prepare import PrepareSettings
    from vr_core.config import validate

    wanted = {
        "stft": {"n_fft": n_fft, "hop": hop}, "codec": codec, "mixture_codec": mixture_codec,
        "mixture": mixture, "workers": workers,
        "align": align, "keep_suspicious": keep_suspicious,
    }  # fmt: skip
    settings = validate(PrepareSettings, wanted, "command line")
    before = planned(sources, layout, split, out, settings, None, read_headers=dry_run)
    refused = dry_run_shown(before, as_json) if dry_run else prepare_shown(before, settings, as_json, cluster)
    if strict and refused:
        from jobs.errors import SongsFailed

        raise SongsFailed(f"{refused} songs or files were not used, and --strict asks for all; see the lines above")
