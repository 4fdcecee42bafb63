"""A recipe that trains an imported model further, written beside its weights."""

import re
from pathlib import Path
from typing import Any, get_args

from jobs.recipe import Recipe
from vr_core.config import plain, validate
from vr_core.specs.objectives import TrainedStem
from vr_core.specs.stft import StftSpec
from vr_core.weights import WeightsMeta
from vr_core.yaml12 import dump_yaml

_NAME_LETTERS = 40


def recipe_of(meta: WeightsMeta, weights: Path) -> dict[str, Any] | None:
    """What the recipe says, as `Recipe` reads it; None where a data set has none of the model's stems.

    Its crops are those of the model's training, so that a step sees what the model knows. Its rate is a fine-tuning
    one: an imported model is better than anything that a few hours at home could begin anew.
    """
    stems = [stem for stem in meta.head.stems if stem in get_args(TrainedStem)]
    if not stems:
        return None
    model, phase = plain(meta.model), meta.head.kind == "complex_mask"
    if "recompute" in model:
        model["recompute"] = True
    crop_frames = meta.model.front.frames_for(StftSpec(), meta.crop_frames)
    recipe = {
        "name": re.sub(r"[^a-z0-9]+", "-", weights.stem.lower()).strip("-")[:_NAME_LETTERS].strip("-") or "imported",
        "init": str(weights.absolute()),
        "needs_init": True,
        **({} if tuple(stems) == meta.head.stems else {"init_part": "body"}),
        "steps": 2000,
        "model": model,
        "objective": {
            "name": "separate", "mask": "complex" if phase else "real", "stems": stems,
            "loss": "waveform" if phase else "magnitude",
        },
        "batch": {"items": 8, "micro_batch": 1, "crop_frames": crop_frames},
        "optim": {"lr": 1e-5, "warmup_steps": 100, "ema_decay": 0.999},
        "validation": {"every_steps": 200, "items": 16},
    }  # fmt: skip
    validate(Recipe, recipe, str(weights))
    return recipe


def recipe_text(recipe: dict[str, Any]) -> str:
    """As a YAML file with a line of help."""
    return f"# Fine-tuning of an imported model. A smaller batch.crop_frames needs less memory.\n{dump_yaml(recipe)}"
