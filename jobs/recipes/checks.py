"""What is checked of a recipe before a run of it begins, beyond what its schema says of each key."""

from typing import Protocol

from dataprep.shards.columns import has_phase
from jobs.recipe import OWN_PARTS, Recipe
from vr_core.errors import ConfigError, command
from vr_core.specs.slots import Stem
from vr_core.specs.stft import StftSpec


class Stored(Protocol):
    """How songs are stored: what a data set's manifest says, or the settings of its preparation."""

    @property
    def stft(self) -> StftSpec:
        """Of the spectrograms."""
        ...

    def codec_of(self, role: Stem) -> str:
        """Codec in which a role is stored."""
        ...


def require_hearable(recipe: Recipe, stored: Stored) -> None:
    """Check that a data set has what the recipe reads of it, and that its model hears something of crops of that.

    Raises:
        ConfigError: stems without the phase that is needed, another sample rate, or crops that are shorter than one of
            the model's windows.
    """
    mute = [stem for stem in recipe.objective.signals.stems if not has_phase(stored.codec_of(stem))]
    if mute and recipe.needs_phase:
        prepare = command("data prepare", "SRC", "--out", "NEW", "--mixture-codec", "polar8")
        raise ConfigError(
            f"data: {recipe.data or 'the data set'}: stores the {mute[0]} without phase ({stored.codec_of(mute[0])}), "
            f"which {recipe.objective.name} with {recipe.model.name} needs; prepare the music anew with it: `{prepare}`"
        )
    own, stft = recipe.model.front.stft, stored.stft
    if own is None:
        return
    if own.sample_rate_hz != stft.sample_rate_hz:
        raise ConfigError(
            f"model.stft.sample_rate_hz {own.sample_rate_hz}: the data set has {stft.sample_rate_hz}; give that"
        )
    if recipe.model.front.frames_on(stft, recipe.batch.crop_frames) < 1:
        least = recipe.model.front.frames_for(stft, 1)
        raise ConfigError(
            f"batch.crop_frames {recipe.batch.crop_frames}: shorter than a window of {own.n_fft} samples; "
            f"give at least {least}"
        )


def without_effect(recipe: Recipe) -> str | None:
    """What the recipe asks for in vain; None where a run does all that it says.

    No new run begins so (`require_effect`); one that has begun goes on, and is told.
    """
    choices = recipe.sync_choices
    if recipe.checkpoint.own_disk_every_s is None or not set(choices) <= set(OWN_PARTS):
        return None
    return (
        f"checkpoint.own_disk_every_s has no effect with sync {' or '.join(choices)}: "
        "a checkpoint then has parts of every worker, and no PC's own disk has all of it"
    )


def require_effect(recipe: Recipe, origin: str) -> None:
    """Check that a run would do all that the recipe asks for.

    Raises:
        ConfigError: it would pass over a key; `origin` says where it stands.
    """
    vain = without_effect(recipe)
    if vain is not None:
        raise ConfigError(f"{origin}: {vain}; leave the key out, or take another sync")


def require_startable(recipe: Recipe) -> None:
    """Check what a recipe must have before a run of it starts.

    Raises:
        ConfigError: no data set, no `init` where the recipe needs one, a key that would have no effect, a model that
            cannot hear what the objective asks of it, amplitudes that would all become zero, or a `sync` that is no
            more.
    """
    require_effect(recipe, f"recipe {recipe.name}")
    if recipe.model.front.causal and recipe.objective.looks_ahead:
        raise ConfigError(
            f"recipe {recipe.name}: model.causal hears no later frame, and objective {recipe.objective.name} hides "
            "frames that are predicted from those on both sides; leave causal out, or take objective separate"
        )
    # With `init` too: weights that answer with masks begin as far off as fresh ones.
    if recipe.objective.head.kind == "amplitude" and recipe.model.answer_scale == 1:
        raise ConfigError(
            f"recipe {recipe.name}: objective.mask amplitude trains to silence at model.answer_scale 1, since outputs "
            "begin hundreds of times too large; give model.answer_scale as 4 / n_fft (0.002 at 2,048)"
        )
    if recipe.data is None:
        raise ConfigError(f"recipe {recipe.name}: no data set; add data=FOLDER (made by `vr data prepare`)")
    if recipe.lora is not None and recipe.init is None:
        raise ConfigError(f"recipe {recipe.name}: lora trains beside a model; add init=WEIGHTS")
    if recipe.init_part == "body" and recipe.init is None:
        raise ConfigError(f"recipe {recipe.name}: init_part body is of weights to start from; add init=WEIGHTS")
    if recipe.needs_init and recipe.init is None:
        raise ConfigError(f"recipe {recipe.name}: needs a start; add init=RUN_OR_CHECKPOINT (a pretraining run)")
