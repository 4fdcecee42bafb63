"""A recipe as a command is given it: a file, or one that comes with the package, with keys replaced."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from jobs.recipe import Recipe
from jobs.recipes.checks import require_effect
from vr_core.config import load
from vr_core.errors import ConfigError
from vr_core.small_files import expanded

_FOLDER = Path(__file__).resolve().parent


def shipped_recipes() -> dict[str, Path]:
    """File of each shipped recipe by its name."""
    return {file.stem: file for file in sorted(_FOLDER.glob("*.yaml"))}


def recipe_file(name_or_path: str) -> Path:
    """The recipe file at that path, or the shipped one of that name.

    Raises:
        ConfigError: neither.
    """
    path = expanded(Path(name_or_path))
    shipped = shipped_recipes()
    if path.is_file():
        return path
    if name_or_path in shipped:
        return shipped[name_or_path]
    near = get_close_matches(name_or_path, shipped, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped recipes: {', '.join(shipped)}"
    raise ConfigError(f"{name_or_path}: no such recipe file; {hint}")


def read_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of that file or name, with `key=value` replaced.

    Raises:
        ConfigError: there is none, it does not fit the schema, or a run would pass over one of its keys.
    """
    file = recipe_file(name_or_path)
    recipe = load(Recipe, file, overrides)
    require_effect(recipe, str(file))
    return recipe
