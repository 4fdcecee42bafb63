"""Tune's callback, apart from `jobs.search.tune` because Tune pickles it and needs `ray.tune` to define it."""

from typing import Any

from ray.tune import Callback

from jobs.search.follower import following, trial_id
from jobs.search.trial import STEP


class Forward(Callback):
    """Forwards Tune's events to the `Follower` of this process."""

    def __init__(self, search: str) -> None:
        """Of the search in the folder `search`."""
        self._search = search

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune has scheduled the trial's actor."""
        following(self._search).began(trial_id(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """The trial has validated."""
        following(self._search).reported(trial_id(trial), int(result[STEP]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial is over, at its end or by ASHA."""
        following(self._search).ended(trial_id(trial), int(trial.last_result[STEP]))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial has failed."""
        following(self._search).failed(trial_id(trial))
