"""The weights that a run with LoRA leaves as they are: kept in its folder, so that the folder is all one needs."""

from collections.abc import Callable

import torch

from dataprep.shards.dataset import Dataset
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.steps.initial_weights import start_from
from jobs.steps.state import TrainingFile
from jobs.steps.world import World
from vr_core.errors import ConfigError, WeightsError, command
from vr_core.files import require_no_links
from vr_core.lora import adapt
from vr_core.models.registry import build
from vr_core.weights import BASE, digest_of, read_meta, save_weights, tensors_digest


def with_own_base(
    recipe: Recipe,
    run: RunFolder,
    data: Dataset,
    saved: TrainingFile | None,
    world: World,
    note: Callable[[str], None] = lambda line: None,
) -> Recipe:
    """`recipe`, which begins with the run's own copy where it trains with LoRA; rank 0 makes it before the first step.

    The copy is the whole model that stays: what the recipe takes of `init`, with its own heads, and what starts fresh.

    Args:
        recipe: of the run.
        run: its folder.
        data: that it trains on.
        saved: the checkpoint that it goes on from.
        world: of this rank.
        note: called with a line for each head that is not as in `init`.

    Raises:
        ConfigError: `init` has low-rank factors itself, or something fresh would not be trained.
        WeightsError: the copy is not what the checkpoint `saved` was trained beside.
        StorageError: it could not be written.
    """
    if recipe.lora is None or recipe.init is None:
        return recipe
    file = run.path / BASE
    beside = _base_of(saved)
    if world.rank == 0 and not file.exists():
        require_plain(recipe)
        torch.manual_seed(recipe.seed)
        model = build(recipe.model, recipe.model.front.bins_on(data.manifest.stft), recipe.objective.head)
        fresh = start_from(model, recipe.init, recipe.init_reset, data, recipe.init_part, note)
        state = {name: value.clone() for name, value in model.state_dict().items()}
        adapt(model, recipe.lora, fresh)
        meta = read_meta(recipe.init).model_copy(update={"model": recipe.model, "head": recipe.objective.head})
        if saved is None or tensors_digest(state) == beside:
            require_no_links(run.root, file)
            save_weights(file, state, meta)
    world.of_first(torch.zeros(1, device=world.device))  # until it is there
    if saved is not None and (not file.exists() or digest_of(file) != beside):
        raise WeightsError(
            f"{file}: not the weights that step {saved.step} was trained beside; put those there again, or start "
            f"a new run with `{command('submit', recipe.name, '--again')}`"
        )
    return recipe.model_copy(update={"init": file, "init_part": "all", "init_reset": ()})


def _base_of(saved: TrainingFile | None) -> str | None:
    """Digest of what a checkpoint was trained beside."""
    if saved is None or saved.folder is None:
        return None
    adapter = read_meta(saved.folder / "weights.safetensors").adapter
    return adapter.base if adapter is not None else None


def require_plain(recipe: Recipe) -> None:
    """Check that a run with LoRA begins with a model without.

    Raises:
        ConfigError: it begins with factors of another run.
        WeightsError, StorageError: `init` cannot be read.
    """
    if recipe.lora is not None and recipe.init is not None and read_meta(recipe.init).adapter is not None:
        merging = command("export", recipe.init, "-o", "MERGED.safetensors")
        raise ConfigError(
            f"init {recipe.init}: is of a run with LoRA already; merge it with `{merging}`, then take that file"
        )
