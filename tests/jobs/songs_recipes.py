"""The shipped recipes `songs-*` that begin from nothing and separate: found by listing, wherever one is needed."""

from jobs.recipes.shipped import read_recipe, shipped_recipes


def songs_recipes() -> list[str]:
    """Their names, sorted."""
    return sorted(name for name in shipped_recipes() if name.startswith("songs-") and _from_nothing(name))


def _from_nothing(name: str) -> bool:
    recipe = read_recipe(name)
    return not recipe.needs_init and recipe.objective.name == "separate"
