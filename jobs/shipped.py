"""The recipes that come with the package."""

from difflib import get_close_matches
from pathlib import Path

from vr_core.errors import ConfigError

_FOLDER = Path(__file__).resolve().parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """File of each shipped recipe by its name."""
    return {file.stem: file for file in sorted(_FOLDER.glob("*.yaml"))}


def recipe_file(name_or_path: str) -> Path:
    """The recipe file at that path, or the shipped one of that name.

    Raises:
        ConfigError: neither.
    """
    path = Path(name_or_path).expanduser()
    shipped = shipped_recipes()
    if path.is_file():
        return path
    if name_or_path in shipped:
        return shipped[name_or_path]
    near = get_close_matches(name_or_path, shipped, n=1)
    hint = f"did you mean {near[0]}?" if near else f"shipped recipes: {', '.join(shipped)}"
    raise ConfigError(f"{name_or_path}: no such recipe file; {hint}")
