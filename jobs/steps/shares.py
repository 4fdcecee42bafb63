"""How many items of a step each worker takes, so that all are done together: pure functions, and `Pace` over time.

A worker that takes n items needs `Speed.takes_s(n)`. It is measured once on the device itself (`jobs/training/speed/`),
and from then on corrected by what the steps really take: the time until a worker's own gradients are complete, without
the exchange, since the time of a whole step is the same for all and says nothing.

Every worker computes all of this by itself from the same numbers, and so finds the same; the training loop checks it
with every step.
"""

import heapq
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from jobs.recipe import Recipe, SyncName

WINDOW_STEPS = 8
"""Steps of which the median counts: a browser that opens is no slow machine."""
DEAD_BAND = 0.03
"""Shares stay unless a step is predicted to be shorter by this part, by each of two windows in a row: they would follow
every noise otherwise. The means of more windows are less noisy by the square root of their count, and the band is
narrower for them."""
SPANS = (2, 4, 8, 16)
"""Windows that are looked at together."""
WORTH = 0.1
"""A worker without which a step is shorter by this part is left out: less is within the error of the prediction."""
INEXACT = 0.05
"""What a way that rounds has to save of a step to be taken by itself."""
AT_ONCE = 0.2
"""So much is no noise: one window is enough."""


@dataclass(frozen=True)
class Speed:
    """What a worker needs for its part of a step."""

    fixed_s: float
    """For each micro-batch, whatever its size: launches, and what else does not grow with the items."""
    item_s: float
    micro_batch: int
    """Most items that it computes at once."""

    def takes_s(self, items: int) -> float:
        """Seconds until its gradients of `items` items are complete."""
        return -(-items // self.micro_batch) * self.fixed_s + items * self.item_s

    def slower(self, factor: float) -> "Speed":
        """The same worker when everything takes `factor` times as long."""
        return replace(self, fixed_s=self.fixed_s * factor, item_s=self.item_s * factor)


def cut_shares(speeds: Sequence[Speed], items: int) -> tuple[int, ...]:
    """Items for each worker, at least one, such that the last one is done as early as can be.

    Exact for whole items: they are given out one at a time to who would be done first with one more, and no time falls
    when an item is added, so that the `items` least of all such times are taken.

    Args:
        speeds: of the workers.
        items: of the step, at least one for each.
    """
    shares = [1] * len(speeds)
    next_done = [(speed.takes_s(2), worker) for worker, speed in enumerate(speeds)]
    heapq.heapify(next_done)
    for _ in range(items - len(speeds)):
        _, worker = next_done[0]
        shares[worker] += 1
        heapq.heapreplace(next_done, (speeds[worker].takes_s(shares[worker] + 1), worker))
    return tuple(shares)


def equal_shares(workers: int, items: int) -> tuple[int, ...]:
    """As even as whole items allow, whatever the machines are."""
    return tuple(items // workers + (worker < items % workers) for worker in range(workers))


def longest_s(speeds: Sequence[Speed], shares: Sequence[int]) -> float:
    """When the last worker is done."""
    return max(speed.takes_s(share) for speed, share in zip(speeds, shares, strict=True))


def even_pieces(items: int, most: int) -> list[int]:
    """Sizes of the micro-batches of a share: as few as can be, and as even as whole items allow.

    A share need not be a multiple of the micro-batch: without compilation nothing here
    depends on shapes, and with whole micro-batches a step of 31 of them reaches 0.86 of the machines' sum where one of
    62 reaches 0.99: the grain of one item is finer than both.
    """
    count = -(-items // most)
    return [items // count + (piece < items % count) for piece in range(count)]


class Exchange(NamedTuple):
    """What one way of becoming one costs besides computing."""

    sent_bytes: int
    """That each worker has to send, as `ring_s` takes them."""
    every_steps: int = 1
    """Steps of which only one comes with an exchange."""
    behind_steps: int = 0
    """Steps that go on meanwhile."""
    whole: float = 0.0
    """Part of the run's steps that every worker computes whole, before any exchange."""


def exchange_of(sync: SyncName, recipe: Recipe, shapes: Sequence[Sequence[int]], element_bytes: int = 4) -> Exchange:
    """What a way costs.

    Args:
        sync: the way.
        recipe: how it is set.
        shapes: of the trained parameters.
        element_bytes: of a gradient's element.
    """
    parameters = sum(math.prod(shape) for shape in shapes)
    if sync == "diloco":
        every, behind = recipe.diloco.every_steps, recipe.diloco.behind_steps
        whole = recipe.local_from_step / recipe.steps
        return Exchange(2 * parameters, every, every if behind is None else behind, whole=whole)
    return Exchange(parameters * (2 if sync == "bf16" else element_bytes))


def ring_s(gradient_bytes: float, links_bytes_per_s: Sequence[float]) -> float:
    """Seconds of a ring all-reduce of so many bytes, at the slowest link: 2 (n - 1) / n of them pass every link."""
    count = len(links_bytes_per_s)
    return 0.0 if count < 2 else 2 * (count - 1) / count * gradient_bytes / min(links_bytes_per_s)


def step_s(speeds: Sequence[Speed], items: int, exchange: Exchange, links_bytes_per_s: Sequence[float]) -> float:
    """Predicted seconds of a step whose items are cut as well as can be.

    An exchange with every step hides behind the backward pass of the last micro-batch, which is taken for two thirds
    of its time (it costs twice the forward pass); what is left of it adds to the step. One that
    is behind hides behind whole steps, and what is left of it is shared by all steps of the round.
    """
    shares = cut_shares(speeds, items)
    exchange_s, computing_s = ring_s(exchange.sent_bytes, links_bytes_per_s), longest_s(speeds, shares)
    if exchange.every_steps > 1 or exchange.behind_steps:
        local_s = computing_s + max(0.0, exchange_s - exchange.behind_steps * computing_s) / exchange.every_steps
        whole_s = max(speed.takes_s(items) for speed in speeds)
        return exchange.whole * whole_s + (1 - exchange.whole) * local_s
    hidden_s = min(
        2 / 3 * speed.takes_s(even_pieces(share, speed.micro_batch)[-1])
        for speed, share in zip(speeds, shares, strict=True)
    )
    return computing_s + max(0.0, exchange_s - hidden_s)


def behind_steps(exchange_s: float, computing_s: float, every_steps: int) -> int:
    """Steps that go on while weights travel: a tenth more than that takes, since nobody waits for what comes early."""
    return min(every_steps, math.ceil(1.1 * exchange_s / computing_s))


def choice_said(chosen: SyncName, predicted_s: Mapping[SyncName, float]) -> str:
    """A choice and what it rests on, for its user."""
    reported = ", ".join(f"{way} {seconds:.3f} s" for way, seconds in predicted_s.items())
    return f"{chosen} (predicted for a step, as a mean over the run: {reported})"


def choose_sync(predicted_s: Mapping[SyncName, float]) -> SyncName:
    """The way of exchanging gradients by which a step is shortest.

    Args:
        predicted_s: way → seconds of a step, the most exact way first; a later one has to be shorter by `INEXACT`.
    """
    chosen, *others = predicted_s
    for other in others:
        if predicted_s[other] < (1 - INEXACT) * predicted_s[chosen]:
            chosen = other
    return chosen


class Kept(NamedTuple):
    """Which workers a step is worth having."""

    workers: tuple[int, ...]
    step_s: float
    """Predicted with them."""
    all_s: float
    """Predicted with all."""


def worth_keeping(
    speeds: Sequence[Speed],
    items: int,
    exchange: Exchange,
    links_bytes_per_s: Sequence[float],
    least: int,
    machines: Sequence[str] | None = None,
) -> Kept:
    """The workers without which a step would take longer, machine by machine.

    A slow card behind a slow link can cost more than it brings: the exchange of all waits for that link. Machines are
    left out one at a time, with all of their workers, each time the one whose absence helps most, as long as a step is
    shorter by `WORTH` without. A run places workers by machine, so one card of two cannot be left out.

    Args:
        speeds: of the workers.
        items: of a step.
        exchange: how their gradients become one.
        links_bytes_per_s: of each worker to the others.
        least: so many machines stay at least.
        machines: name of each worker's; without it each has one of its own.
    """
    names = [str(worker) for worker in range(len(speeds))] if machines is None else machines

    def predicted_s(workers: Sequence[int]) -> float:
        links = [links_bytes_per_s[worker] for worker in workers]
        return step_s([speeds[worker] for worker in workers], items, exchange, links)

    kept = tuple(range(len(speeds)))
    all_s = now_s = predicted_s(kept)
    while len(left := dict.fromkeys(names[worker] for worker in kept)) > max(1, least):
        fewer = [tuple(worker for worker in kept if names[worker] != name) for name in left]
        best = min(fewer, key=predicted_s)
        if predicted_s(best) > (1 - WORTH) * now_s:
            break
        kept, now_s = best, predicted_s(best)
    return Kept(kept, now_s, all_s)


class Pace:
    """The shares of every step, from what the steps before it took.

    A decision made after step k holds from step k + `ahead_steps` on: what is read ahead for the steps until then has
    been cut already.
    """

    def __init__(
        self,
        speeds: Sequence[Speed],
        items: int,
        first_step: int,
        ahead_steps: int,
        *,
        measured: bool = True,
        whole_until: int = 0,
    ) -> None:
        """Shares from `first_step` on.

        Args:
            speeds: of the workers, as known at the start.
            items: of a step.
            first_step: number of steps done so far.
            ahead_steps: how many steps ahead of the last observed one shares are asked for, at most, plus one.
            measured: follow the speeds; else the shares are equal and stay.
            whole_until: the steps before this one are not cut: every worker computes all of their items.
        """
        self.speeds = tuple(speeds)
        self._items = items
        self._ahead_steps = ahead_steps
        self._measured = measured
        self._whole_until = whole_until
        shares = cut_shares(speeds, items) if measured else equal_shares(len(speeds), items)
        self._plan = [(first_step, shares)]
        self._window: list[Sequence[float]] = []
        self._found: deque[tuple[Speed, ...]] = deque(maxlen=SPANS[-1])
        """The speeds of each window with the shares that hold."""

    def shares(self, step: int) -> tuple[int, ...]:
        """Items of each worker in the step after `step` steps."""
        if step < self._whole_until:
            return (self._items,) * len(self.speeds)
        return next(shares for first, shares in reversed(self._plan) if step >= first)

    def pieces(self, step: int, worker: int) -> list[int]:
        """Sizes of a worker's micro-batches in that step."""
        return even_pieces(self.shares(step)[worker], self.speeds[worker].micro_batch)

    def split(self, count: int) -> tuple[int, ...]:
        """`count` things to compute apart from the steps, by the same speeds; some workers may get none."""
        if count < len(self.speeds):
            return equal_shares(len(self.speeds), count)
        return cut_shares(self.speeds, count) if self._measured else equal_shares(len(self.speeds), count)

    def observe(self, step: int, busy_s: Sequence[float]) -> tuple[int, ...] | None:
        """Take in what each worker needed for the step after `step` steps.

        Returns:
            New shares where there is a decision; they hold from `ahead_steps` later on.
        """
        newest, shares = self._plan[-1]
        if not self._measured or step < max(newest, self._whole_until):
            return None
        self._window.append(busy_s)
        if len(self._window) < WINDOW_STEPS:
            return None
        took_s = [statistics.median(column) for column in zip(*self._window, strict=True)]
        self._window = []
        self.speeds = tuple(
            speed.slower(took / speed.takes_s(share))
            for speed, took, share in zip(self.speeds, took_s, shares, strict=True)
        )
        self._found.append(self.speeds)
        agreed = self._agreed(shares)
        if agreed is None:
            return None
        self.speeds = agreed
        self._found.clear()
        better = cut_shares(self.speeds, self._items)
        self._plan = [*self._plan[-1:], (step + self._ahead_steps, better)]
        return better

    def _agreed(self, shares: Sequence[int]) -> tuple[Speed, ...] | None:
        """Speeds for which other shares than these are better; None where that may be noise.

        Of the windows looked at, the shares that one half of them suggests have to be better by the speeds of the other
        half: the best shares for noisy speeds seem to save something by these speeds themselves, always.
        """
        newest = self._found[-1]
        if self._saves(cut_shares(newest, self._items), shares, newest) >= AT_ONCE:
            return newest
        for count in SPANS:
            if count > len(self._found):
                break
            windows, band = list(self._found)[-count:], DEAD_BAND * (2 / count) ** 0.5
            first, second = _mean(windows[: count // 2]), _mean(windows[count // 2 :])
            if self._saves(best := cut_shares(second, self._items), shares, second) < band:
                continue  # and so would any other cut: what is found nearly always, for little
            other = cut_shares(first, self._items)
            if min(self._saves(best, shares, first), self._saves(other, shares, second)) >= band:
                return _mean(windows)
        return None

    @staticmethod
    def _saves(better: Sequence[int], shares: Sequence[int], speeds: Sequence[Speed]) -> float:
        """The part of a step with `shares` that `better` ones save by these speeds."""
        return 1 - longest_s(speeds, better) / longest_s(speeds, shares)


def _mean(windows: Sequence[Sequence[Speed]]) -> tuple[Speed, ...]:
    """Of the same workers in several windows."""
    return tuple(
        one[0].slower(statistics.fmean(speed.item_s for speed in one) / one[0].item_s)
        for one in zip(*windows, strict=True)
    )
