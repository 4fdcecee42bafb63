"""What Tune decides about trials, written into their folders and shown on the dashboard."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs.runs.summary import ProgressWriter
from jobs.search.folder import ENDED, Search, TrialRow, shown_trial
from jobs.search.space import shown_values
from vr_core.small_files import read_json

CARD_EVERY_S = 10.0
"""A restart of a card costs about a second of one core."""
CARDS_END_S = 60.0

Watch = Callable[[list[TrialRow]], None]


def trial_id(trial: Any) -> str:
    """Ours, of a trial of Tune's."""
    return Path(trial.config["trial"]["folder"]).name


class Follower:
    """Writes what Tune decides into the trials' folders, and keeps their cards on the dashboard up to date."""

    def __init__(self, search: Search, watch: Watch, with_cards: bool) -> None:
        """Follow `search`; cards make sense only where there is a dashboard."""
        self._search, self._watch, self._with_cards = search, watch, with_cards
        self._cards: dict[str, Any] = {}
        self._writers: dict[str, ProgressWriter] = {}
        self._refreshed_s: dict[str, float] = {}
        self._leaving: dict[str, Any] = {}
        """Cards of ended trials, by the answer that says that they show the end."""
        self._ended_before = [row.id for row in search.rows() if row.state in ENDED] if with_cards else []
        """Trials whose end a killed driver may not have shown: one after the other gets its card once more."""

    def began(self, trial: str) -> None:
        """A trial's actor is being made."""
        run = self._search.trial(trial)
        if run.state().state not in ENDED:
            run.write_state(state="running", why="", step=run.last_step())
        self._tell(trial)
        if self._with_cards and trial not in self._cards:
            self._cards[trial] = self._card(trial)
        self._changed()

    def reported(self, trial: str, step: int) -> None:
        """A validation."""
        run = self._search.trial(trial)
        run.write_state(step=max(step, run.state().step))  # one that goes on reports what it did before once more
        self._tell(trial)
        if time.monotonic() - self._refreshed_s.get(trial, 0.0) > CARD_EVERY_S:
            self._refresh(trial)
        self._changed()

    def ended(self, trial: str, step: int) -> None:
        """A trial came to its last step, or ASHA stopped it before."""
        run = self._search.trial(trial)
        if step >= run.state().steps:
            run.write_state(state="finished", step=step, why="")
        else:
            run.write_state(state="stopped", step=step, why=f"ASHA: behind the other trials at step {step}")
        self._leave(trial)

    def failed(self, trial: str) -> None:
        """A trial raised, or its process died."""
        run = self._search.trial(trial)
        why = "its process died: its machine, its network or its memory"
        with contextlib.suppress(OSError, ValueError, KeyError):
            why = read_json(run.path / "error.json")["message"]
        run.write_state(state="failed", step=run.last_step(), why=why)
        self._leave(trial)

    def _tell(self, trial: str) -> None:
        """Bring the trial's `summary.json` and `metrics.jsonl` up to date."""
        if trial not in self._writers:
            run = self._search.trial(trial)
            self._writers[trial] = ProgressWriter(run, run.state().steps)
        with contextlib.suppress(OSError):  # told again with the next report
            self._writers[trial].tell()

    def close(self) -> None:
        """Wait until every card shows its trial's end; Ray goes on showing that when the card has gone."""
        give_up_s = time.monotonic() + CARDS_END_S
        while (self._leaving or self._ended_before) and time.monotonic() < give_up_s:
            self._settle_all(timeout_s=1.0)

    def _changed(self) -> None:
        self._watch(self._search.write_rows())
        self._settle_all(timeout_s=0.0)

    def _settle_all(self, timeout_s: float) -> None:
        for trial in list(self._leaving):
            self._settle(trial, timeout_s)
        if self._ended_before and not self._leaving:
            trial = self._ended_before.pop(0)
            if trial not in self._cards:
                self._cards[trial] = self._card(trial)
                self._leaving[trial] = self._cards[trial].ready.remote()

    def _leave(self, trial: str) -> None:
        self._tell(trial)
        if trial in self._cards:
            self._refresh(trial)
            self._leaving[trial] = self._cards[trial].ready.remote()
        self._changed()

    def _settle(self, trial: str, timeout_s: float) -> None:
        """End the card of an ended trial if it has been made anew since."""
        import ray

        answer = self._leaving[trial]
        if not ray.wait([answer], timeout=timeout_s)[0]:
            return
        shown = ""
        with contextlib.suppress(ray.exceptions.RayError):  # it was restarting
            shown = ray.get(answer)
        if shown == shown_trial(self._search.row(trial)):
            ray.kill(self._cards.pop(trial))
            del self._leaving[trial]
            return
        if shown:
            self._refresh(trial)  # Ray had been restarting it already, and it read the folder too early
        self._leaving[trial] = self._cards[trial].ready.remote()

    def _card(self, trial: str) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from jobs.search.trial import TrialCard

        row = self._search.row(trial)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._refreshed_s[trial] = time.monotonic()
        return (
            ray.remote(TrialCard)
            .options(
                name=f"{self._search.id}/{trial} {shown_values(row.values)}",
                num_cpus=0,
                max_restarts=-1,
                scheduling_strategy=here,
            )
            .remote(self._search.path, trial)
        )

    def _refresh(self, trial: str) -> None:
        import ray

        if trial in self._cards:
            self._refreshed_s[trial] = time.monotonic()
            ray.kill(self._cards[trial], no_restart=False)


_following: dict[str, Follower] = {}
"""By search folder. Tune pickles its callbacks: they only look here."""


@contextlib.contextmanager
def followed_by(search: Search, follower: Follower) -> Iterator[None]:
    """Tune's callbacks for `search` reach `follower` in the block."""
    _following[str(search.path)] = follower
    try:
        yield
    finally:
        del _following[str(search.path)]


def following(path: str) -> Follower:
    """The follower of the search in `path`, which this process carries."""
    return _following[path]
