"""`vr import`: a checkpoint of another program as a weights file of ours, and a recipe that trains it further."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.commands.progress import byte_bar
from jobs.commands.terminal import Json, say
from vr_core.errors import command

if TYPE_CHECKING:
    from vr_core.weights import WeightsMeta


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint: .ckpt, .pth, .pt or .safetensors.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Weights file to write, such as NAME.safetensors.")],
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML", help="The file's own YAML: its hop, chunk and stems.", show_default="options below say them"
        ),
    ] = None,
    stems: Annotated[
        str | None,
        typer.Option(
            help="Stems in the file's order, such as vocals,instrumental; before the YAML's.",
            show_default="the YAML's",
        ),
    ] = None,
    hop: Annotated[
        int | None,
        typer.Option(min=1, help="Hop of its STFT, in samples.", show_default="the YAML's, else the usual one"),
    ] = None,
    n_fft: Annotated[
        int | None,
        typer.Option("--n-fft", min=2, help="Size of its STFT, in samples.", show_default="as its tensors say"),
    ] = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Length of its training crops, in samples: the window of separation.",
            show_default="the YAML's, else 8 s",
        ),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(help="Its licence, which is kept in the weights file.", show_default="none is kept"),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over weights or a recipe that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a checkpoint of others into a weights file of ours.

    BS-RoFormer, Mel-Band RoFormer and tsurumeso's vocal-remover are recognised by their tensors. A pickle is
    read without running anything in it. Beside the weights comes a recipe that trains them further.

    Example: vr import theirs.ckpt --config theirs.yaml -o roformer.safetensors
    """
    import psutil

    from jobs.recipes.imported import recipe_of, recipe_text
    from vr_core.errors import WeightsError
    from vr_core.files import whole_file
    from vr_core.importing.convert import convert
    from vr_core.importing.said import Said, read_said, stem_names
    from vr_core.small_files import expanded

    source, out = expanded(file), expanded(out)
    out = out if out.suffix == ".safetensors" else out.with_name(f"{out.name}.safetensors")
    recipe = out.with_suffix(".yaml")
    given = {os.path.realpath(path) for path in (source, *([expanded(config)] if config is not None else []))}
    for path in (out, recipe):
        if os.path.realpath(path) in given:
            raise WeightsError(f"{path}: would be written over what is imported; give another --out")
        if os.path.lexists(path) and (path.is_dir() or not replace):
            ways = "" if path.is_dir() else ", or --replace"
            raise WeightsError(f"{path}: is there already; give another --out{ways}")
    named = stem_names([name.strip() for name in stems.split(",")]) if stems is not None else None
    said = Said(named, hop, n_fft, chunk_samples=chunk)
    if config is not None:
        said = said.over(read_said(expanded(config)))
    size_bytes = source.stat().st_size if source.is_file() else 0
    with byte_bar(f"reading {source.name}", size_bytes) as progress:
        made = convert(
            source, said, out, licence=licence, available_bytes=psutil.virtual_memory().available, progress=progress
        )
    meta = made.meta
    trained_by = recipe_of(meta, out)
    if trained_by is not None:
        with whole_file(recipe) as draft:
            draft.write_text(recipe_text(trained_by))
    about = {
        "weights": str(out), "recipe": str(recipe) if trained_by is not None else None, "model": meta.model.name,
        "parameters": made.parameters, "stems": list(meta.head.stems), "n_fft": meta.stft.n_fft,
        "hop": meta.stft.hop, "crop_frames": meta.crop_frames, "file": str(source),
        "sha256": meta.imported.sha256 if meta.imported else None, "licence": licence, "assumed": list(made.assumed),
    }  # fmt: skip
    if as_json:
        print(json.dumps(about))
        return
    _show(about, meta)


def _show(about: dict[str, Any], meta: "WeightsMeta") -> None:
    crop_s = meta.crop_frames * meta.stft.hop / meta.stft.sample_rate_hz
    say(
        f"{about['model']}: {about['parameters']:,} parameters, STFT {meta.stft.n_fft}/{meta.stft.hop}, "
        f"windows of {crop_s:.1f} s, stems {', '.join(about['stems'])}"
    )
    for note in about["assumed"]:
        say(f"note: {note}", err=True)
    say(f"weights {about['weights']}")
    if about["recipe"]:
        say(f"recipe  {about['recipe']}")
    else:
        say("note: no recipe was written: a data set has vocals and instrumental, and none of these stems", err=True)
    say("next:")
    say(f"  {command('separate', 'SONG.mp3', '-m', about['weights'], '-o', 'separated')}")
    if about["recipe"]:
        say(f"  {command('submit', about['recipe'], 'data=DATA')}")
