"""What the weights of a run say of their making: what for, on which songs, and what the run began with."""

from collections.abc import Callable
from pathlib import Path

from dataprep.shards.manifest import Manifest
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from vr_core.errors import VrError
from vr_core.specs.objectives import ObjectiveSpec
from vr_core.weights import DIGEST_DIGITS, Adapter, Parent, WeightsMeta, digest_of, read_meta

_SILENCE_DB = -120.0
"""Of digital silence `StemRow.loudness_db` says this, or less."""


def trained_on(manifest: Manifest, objective: ObjectiveSpec) -> set[str]:
    """Digests of the stems that a run with this objective learns from; silent ones, which songs share, are none."""
    return {
        song.stems[role].content_sha256[:DIGEST_DIGITS]
        for song in manifest.songs
        if song.split == "train"
        for role in objective.signals.stems
        if role in song.stems and song.stems[role].loudness_db > _SILENCE_DB
    }


def describe(run: RunFolder, recipe: Recipe, manifest: Manifest, note: Callable[[str], None]) -> WeightsMeta:
    """What checkpoints of `run` say of themselves, but for their step.

    What the run began with is read from `init`; where that is gone, from the run's own newest checkpoint. With LoRA it
    is the run's own copy of that.
    """
    own = trained_on(manifest, recipe.objective)
    parents: tuple[Parent, ...] = ()
    before = _began_with(run, recipe.init, note) if recipe.init is not None else None
    if before is not None:
        parents, more = before
        own |= more
    return WeightsMeta(
        model=recipe.model, head=recipe.objective.head, stft=recipe.model.front.stft_on(manifest.stft),
        crop_frames=recipe.model.front.frames_on(manifest.stft, recipe.batch.crop_frames), step=0, run=run.id,
        purpose=recipe.objective.purpose, data=manifest.digest(), parents=parents, trained_on=tuple(sorted(own)),
        adapter=Adapter(lora=recipe.lora, base=digest_of(recipe.init)) if recipe.lora and recipe.init else None,
    )  # fmt: skip


def _began_with(run: RunFolder, init: Path, note: Callable[[str], None]) -> tuple[tuple[Parent, ...], set[str]] | None:
    """The parents, nearest first, and what they were trained on; None where nothing says it."""
    try:
        meta = read_meta(init)
    except VrError as error:
        last = run.pointer("last")
        try:
            mine = read_meta(last / "weights.safetensors") if last is not None else None
        except VrError:
            mine = None
        if mine is None or not mine.parents:
            note(f"checkpoints will not say what the run began with: {error}")
            return None
        return mine.parents, set(mine.trained_on)
    parent = Parent(run=meta.run, step=meta.step, purpose=meta.purpose, data=meta.data)
    return (parent, *meta.parents), set(meta.trained_on)
