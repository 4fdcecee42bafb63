"""`vr export`: a run's weights as one file, with low-rank factors added to what they belong to."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.terminal import Json, say
from vr_core.errors import command


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, a checkpoint of it or a weights file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Weights file to write, such as NAME.safetensors.")],
    replace: Annotated[bool, typer.Option("--replace", help="Write over a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a run's weights as one file that needs nothing else.

    Of a run with LoRA the trained factors are added to the weights beside which they were trained, so that the
    file is an ordinary model: it separates, it can be scored, and other runs can start from it.

    Example: vr export songs-roformer-lora-1a2b3c4d-1 -o mine.safetensors
    """
    from jobs.runs.lookup import resolve_weights
    from vr_core.errors import WeightsError
    from vr_core.loading import base_folders, load_model
    from vr_core.models.figures import count_parameters
    from vr_core.small_files import expanded
    from vr_core.weights import BASE, read_meta, save_weights

    source, out = resolve_weights(run), expanded(out)
    out = out if out.suffix == ".safetensors" else out.with_name(f"{out.name}.safetensors")
    own = {os.path.realpath(file) for file in (source, *(folder / BASE for folder in base_folders(source)))}
    if os.path.realpath(out) in own:
        raise WeightsError(f"{out}: would be written over what is exported; give another --out")
    if os.path.lexists(out) and (out.is_dir() or not replace):
        raise WeightsError(f"{out}: is there already; give another --out{'' if out.is_dir() else ', or --replace'}")
    adapter = read_meta(source).adapter
    model, meta = load_model(source)
    save_weights(out, model.state_dict(), meta)
    about = {
        "weights": str(out), "source": str(source), "run": meta.run, "step": meta.step, "model": meta.model.name,
        "parameters": count_parameters(model), "stems": list(meta.head.stems), "merged": adapter is not None,
    }  # fmt: skip
    if as_json:
        print(json.dumps(about))
        return
    how = f", low-rank factors of rank {adapter.lora.rank} merged" if adapter is not None else ""
    say(f"{meta.model.name}: {about['parameters']:,} parameters, step {meta.step} of {meta.run}{how}")
    say(f"weights {out}")
    say(f"next:\n  {command('separate', 'SONG.mp3', '-m', out, '-o', 'separated')}")
