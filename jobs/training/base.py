"""The weights that a run with LoRA leaves as they are: kept in its folder, so that the folder is all one needs."""

import torch

from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.steps.state import TrainingFile
from jobs.steps.world import World
from vr_core.errors import ConfigError, WeightsError, command
from vr_core.files import require_no_links
from vr_core.weights import BASE, digest_of, load_merged, read_meta, save_weights


def with_own_base(recipe: Recipe, run: RunFolder, saved: TrainingFile | None, world: World) -> Recipe:
    """`recipe`, whose `init` is the run's own copy where it trains with LoRA; rank 0 makes it before the first step.

    Raises:
        ConfigError: `init` has low-rank factors itself.
        WeightsError: the copy is not what the checkpoint `saved` was trained beside.
        StorageError: it could not be written.
    """
    if recipe.lora is None or recipe.init is None:
        return recipe
    file = run.path / BASE
    if world.rank == 0 and not file.exists():
        require_plain(recipe)
        require_no_links(run.root, file)
        state, meta = load_merged(recipe.init)
        save_weights(file, state, meta)
    world.of_first(torch.zeros(1, device=world.device))  # until it is there
    if saved is not None and saved.folder is not None:
        adapter = read_meta(saved.folder / "weights.safetensors").adapter
        if adapter is None or adapter.base != digest_of(file):
            raise WeightsError(
                f"{file}: not the weights that step {saved.step} was trained beside; put those there again, or start "
                f"a new run with `{command('submit', recipe.name, '--again')}`"
            )
    return recipe.model_copy(update={"init": file})


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
