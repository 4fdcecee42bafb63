"""One trial of a search, as Ray sees it: the actor that trains, and the card that shows it on the dashboard.

Ray asks an actor for its representation once, when the actor has been made, and shows that for its life. The actor that
trains therefore carries trial, values, and the step and score that it starts from. Its card is a second actor without
any CPU, named after trial and values, which Ray restarts with every report (at most every `CARD_EVERY_S`): each time it
reads the trial's folder, and the dashboard gets a representation with the step and the score of that moment.
"""

import math
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.tune
from ray.tune import PlacementGroupFactory
from ray.tune.trainable import wrap_function

from jobs.errors import RunFailed
from jobs.recipe import Recipe
from jobs.runs.folder import RunFolder
from jobs.runs.progress import last_record
from jobs.search.folder import Search, shown_trial, validations
from jobs.search.space import shown_values
from vr_core.config import validate
from vr_core.errors import UserError, VrError
from vr_core.files import write_json
from vr_core.small_files import parse_json

SCORE = "score"
STEP = "step"

_EXIT_WAIT_S = 10.0
_loop_ended = threading.Event()
"""Of this process's one trial: metrics are flushed and closed."""


def train_trial(config: dict[str, Any]) -> None:
    """Tune function: the training loop on the run folder `config["trial"]["folder"]`, reporting at validations.

    Raises:
        VrError: as `jobs.training.loop.train`; it is also written to the folder's `error.json`.
    """
    import torch

    from jobs.steps.world import World
    from jobs.training.loop import train

    folder = Path(config["trial"]["folder"])
    run = Search(folder.parents[1]).trial(folder.name)
    error_file = run.path / "error.json"
    error_file.unlink(missing_ok=True)
    try:
        recipe = validate(Recipe, parse_json(config["trial"]["recipe"], run.id), f"trial {run.id}")
        torch.set_num_threads(recipe.workers.cpus)
        report = _reporter(run, ray.tune.report)
        begun = run.last_step()
        for step, score in validations(run):
            if step <= begun:  # ASHA has not heard of them from this actor
                report({STEP: step, "validation_loss": score})
        if begun >= recipe.steps:  # killed before anybody noted that it had ended
            return
        device = torch.device("cuda" if config["use_gpu"] else "cpu")
        ended = train(recipe, run.path, World.alone(device), report)
        if ended.how != "finished":
            raise RunFailed(f"trial {run.id} was asked to stop by itself; stop the search instead")
    except Exception as error:
        message = str(error) if isinstance(error, VrError) else f"{type(error).__name__}: {error}"
        write_json(error_file, {"message": message, "traceback": traceback.format_exc()}, root=run.root)
        raise
    finally:
        _loop_ended.set()


def _reporter(run: RunFolder, tune_report: Callable[[dict[str, float]], None]) -> Callable[[dict[str, float]], None]:
    """The loop's `report`: finite Python numbers only, since a NaN would be compared with other trials' scores."""

    def report(metrics: dict[str, float]) -> None:
        score = metrics.get("validation_loss", math.nan)
        if not math.isfinite(score):
            if last_record(run, "validation") is None:
                raise UserError(f"data: {run.recipe().data} has no songs for validation, which a search scores by")
            raise RunFailed(f"trial {run.id}: the validation loss is not finite at step {metrics[STEP]:.0f}")
        tune_report({STEP: int(metrics[STEP]), SCORE: float(score)})

    return report


class Trial(wrap_function(train_trial)):  # type: ignore[misc]  # Tune's class around a function
    """The actor that trains one trial."""

    def setup(self, config: dict[str, Any]) -> None:
        """Note what the trial is and where it starts."""
        folder = Path(config["trial"]["folder"])
        row = Search(folder.parents[1]).row(folder.name)
        step = RunFolder(folder).last_step()
        score = "none yet" if row.score is None else f"{row.score:.4g}"
        self._shown = f"trial {row.id} | {shown_values(row.values)} | from step {step}/{row.steps} | score {score}"
        super().setup(config)

    def cleanup(self) -> None:
        """Let the loop close its files: a trial that is stopped stands in its report."""
        super().cleanup()
        _loop_ended.wait(_EXIT_WAIT_S)

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """One bundle, on a machine with the labels that the recipe wants."""
        labels: dict[str, Any] = {"bundle_label_selector": [config["selector"]]} if config["selector"] else {}
        return PlacementGroupFactory([config["resources"]], **labels)

    def __repr__(self) -> str:
        return self._shown


class TrialCard:
    """Actor that holds no resources and shows one trial on the dashboard."""

    def __init__(self, search: Path, trial: str) -> None:
        """Read the trial's folder; done again at every restart."""
        self._shown = shown_trial(Search(search).row(trial))

    def ready(self) -> str:
        """What the dashboard shows."""
        return self._shown

    def __repr__(self) -> str:
        return self._shown
