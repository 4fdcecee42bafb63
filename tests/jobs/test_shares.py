"""Shares: as good as any cut (a naive search), steady under noise, quick after a change, and the same everywhere."""

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataprep.batches.loader import TAKEN_AHEAD
from jobs.recipe import Recipe
from jobs.steps.shares import (
    DEAD_BAND,
    SPANS,
    WINDOW_STEPS,
    Exchange,
    Pace,
    Speed,
    behind_steps,
    choose_sync,
    cut_shares,
    equal_shares,
    even_pieces,
    exchange_of,
    longest_s,
    ring_s,
    step_s,
    worth_keeping,
)
from vr_core.config import validate

AHEAD = TAKEN_AHEAD + 1
SPEED = st.builds(Speed, st.floats(0, 2), st.floats(0.01, 3), st.integers(1, 5))


def all_cuts(workers, items):
    for ends in itertools.combinations(range(1, items), workers - 1):
        yield [b - a for a, b in itertools.pairwise((0, *ends, items))]


@given(st.lists(SPEED, min_size=1, max_size=4), st.integers(4, 12))
def test_no_cut_is_done_earlier(speeds, items):
    shares = cut_shares(speeds, items)
    assert sum(shares) == items
    assert min(shares) >= 1
    best = min(longest_s(speeds, cut) for cut in all_cuts(len(speeds), items))
    assert longest_s(speeds, shares) == pytest.approx(best)


def test_a_3090_ti_and_a_3080_ti_reach_what_whole_items_allow():
    """Worked out by hand: the best share of the summed speed at N of 8, 16, 32 and 128."""
    speeds = [Speed(0, 1, 64), Speed(0, 1 / 0.86, 64)]
    reached = {n: n / longest_s(speeds, cut_shares(speeds, n)) / 1.86 for n in (8, 16, 32, 128)}
    assert reached == pytest.approx({8: 0.925, 16: 0.956, 32: 0.986, 128: 0.997}, abs=0.001)


@given(st.integers(1, 200), st.integers(1, 40))
def test_micro_batches_are_few_and_even(items, most):
    pieces = even_pieces(items, most)
    assert sum(pieces) == items
    assert max(pieces) <= most
    assert max(pieces) - min(pieces) <= 1
    assert len(pieces) == -(-items // most)


def test_equal_shares_differ_by_one_at_most():
    assert equal_shares(3, 8) == (3, 3, 2)


class Machines:
    """Simulated clocks: what workers of these true speeds need for their shares, with noise."""

    def __init__(self, *item_s, noise=0.0):
        self.item_s = list(item_s)
        self.noise = noise
        self.random = random.Random(7)

    def busy_s(self, shares):
        return [
            item_s * share * (1 + self.noise * self.random.uniform(-1, 1))
            for item_s, share in zip(self.item_s, shares, strict=True)
        ]

    def run(self, pace, steps):
        """Steps → how long each took."""
        took = []
        for step in steps:
            busy = self.busy_s(pace.shares(step))
            pace.observe(step, busy)
            took.append(max(busy))
        return took


def test_wrong_speeds_are_corrected_within_two_windows():
    machines = Machines(1, 1 / 0.86, 1 / 0.36)
    pace = Pace([Speed(0, 1, 8)] * 3, 64, 0, AHEAD)
    took = machines.run(pace, range(2 * WINDOW_STEPS + 2 * AHEAD))
    ideal = 64 / (1 + 0.86 + 0.36)
    assert took[0] > 2 * ideal
    assert took[-1] < 1.04 * ideal


def test_noise_moves_no_share():
    machines = Machines(1, 2, noise=0.05)
    pace = Pace([Speed(0, 1, 8), Speed(0, 2, 8)], 60, 0, AHEAD)
    machines.run(pace, range(400))
    assert pace.shares(400) == (40, 20)


def test_a_worker_that_is_ten_times_slower_from_now_on_gets_a_tenth():
    machines = Machines(1, 1)
    pace = Pace([Speed(0, 1, 8)] * 2, 44, 0, AHEAD)
    machines.run(pace, range(20))
    machines.item_s[1] = 10
    machines.run(pace, range(20, 80))
    assert pace.shares(80) == (40, 4)


def test_a_decision_never_reaches_a_step_that_may_have_been_read():
    machines = Machines(1, 3)
    pace = Pace([Speed(0, 1, 8)] * 2, 40, 5, AHEAD)
    asked = {}
    for step in range(5, 200):
        for ahead in range(step, step + AHEAD):
            assert asked.setdefault(ahead, pace.shares(ahead)) == pace.shares(ahead), "it was read with other shares"
        machines.item_s[1] = 3 if step < 90 else 0.5
        pace.observe(step, machines.busy_s(pace.shares(step)))
    assert asked[5] == (20, 20)
    assert asked[199][0] < 20 < asked[199][1]


def test_a_small_gain_is_taken_when_more_windows_show_it():
    """1.5 % here: less than two windows may decide, more than sixteen."""
    pace = Pace([Speed(0, 1, 8), Speed(0, 1, 8)], 400, 0, AHEAD)
    machines = Machines(1, 1 + DEAD_BAND)
    machines.run(pace, range(SPANS[-1] * WINDOW_STEPS - 1))
    assert pace.shares(1000) == (200, 200)
    machines.run(pace, range(SPANS[-1] * WINDOW_STEPS - 1, SPANS[-1] * WINDOW_STEPS))
    assert pace.shares(1000) == (203, 197)


def test_one_slow_window_among_many_changes_nothing():
    pace = Pace([Speed(0, 1, 8), Speed(0, 1, 8)], 400, 0, AHEAD)
    machines = Machines(1, 1)
    for window in range(40):
        machines.item_s[1] = 1.15 if window % 20 == 10 else 1
        machines.run(pace, range(window * WINDOW_STEPS, (window + 1) * WINDOW_STEPS))
    assert pace.shares(1000) == (200, 200)


def test_what_was_found_with_other_shares_decides_nothing():
    """A machine that gets slower all the time: two windows with the shares that hold, whatever the ones before say."""
    pace = Pace([Speed(0, 1, 8), Speed(0, 1, 8)], 2000, 0, AHEAD)
    machines = Machines(1, 1)
    changes = []
    for step in range(600):
        machines.item_s[1] *= 1.01
        if pace.observe(step, machines.busy_s(pace.shares(step))) is not None:
            changes.append(step)
    assert len(changes) > 10
    assert min(b - a for a, b in itertools.pairwise(changes)) == AHEAD - 1 + 2 * WINDOW_STEPS


@pytest.mark.parametrize(("noise", "most_changes", "reached"), [(0.02, 2, 0.995), (0.05, 3, 0.994), (0.1, 16, 0.985)])
def test_fine_shares_follow_little_noise_and_come_near(noise, most_changes, reached):
    """Of 2,000 items every one counts little, so that no grain keeps the shares from following noise."""
    machines = Machines(1, 1 / 0.86, 1 / 0.36, noise=noise)
    wrong = (1, 1.03, 0.96)
    pace = Pace([Speed(0, s * w, 8) for s, w in zip(machines.item_s, wrong, strict=True)], 2000, 0, AHEAD)
    changes, took_s = 0, []
    for step in range(2400):
        changes += pace.observe(step, machines.busy_s(pace.shares(step))) is not None
        took_s.append(max(s * share for s, share in zip(machines.item_s, pace.shares(step), strict=True)))
    assert changes <= most_changes
    late = took_s[(SPANS[-1] + 1) * WINDOW_STEPS :]
    assert 2000 / (1 + 0.86 + 0.36) / statistics.fmean(late) > reached


def test_equal_stays_equal():
    pace = Pace([Speed(0, 1, 8), Speed(0, 9, 8)], 10, 0, AHEAD, measured=False)
    assert Machines(1, 9).run(pace, range(50)) == [45] * 50


@given(st.integers(0, 40))
def test_what_is_validated_is_split_whole(count):
    pace = Pace([Speed(0, 1, 8), Speed(0, 2, 8), Speed(0, 3, 8)], 64, 0, AHEAD)
    split = pace.split(count)
    assert sum(split) == count
    assert min(split) >= 0


GBE = 0.94 * 125e6
CARD = Speed(0, 0.446 / 16, 4)
"""Assumed: 16 items of 1,024 frames take 0.446 s on a 3090 Ti."""
GRADIENTS_BYTES = 492_000_000


def test_the_exchange_of_123_million_parameters_takes_what_the_reference_says():
    assert ring_s(GRADIENTS_BYTES, [GBE, GBE]) == pytest.approx(4.19, abs=0.01)
    assert ring_s(GRADIENTS_BYTES, [GBE] * 4) == pytest.approx(6.28, abs=0.01)
    assert ring_s(GRADIENTS_BYTES, [10 * GBE, 10 * GBE, GBE]) == pytest.approx(5.58, abs=0.01), "the slowest link"
    assert ring_s(GRADIENTS_BYTES, [GBE]) == 0


def test_two_pcs_are_kept_where_they_are_quicker_than_one():
    """Break-even of two such cards at 1 GbE is 308,000 tokens, some 300 items; at 10 GbE 31 (section 2.2)."""
    for items, link, kept in ((64, GBE, 1), (400, GBE, 2), (16, 10 * GBE, 1), (64, 10 * GBE, 2)):
        found = worth_keeping([CARD, CARD], items, Exchange(GRADIENTS_BYTES), [link, link], 1)
        assert len(found.workers) == kept, (items, link)
        assert found.step_s <= found.all_s


def test_only_the_one_behind_the_slow_link_is_left_out():
    found = worth_keeping(
        [CARD, CARD, CARD.slower(2)], 256, Exchange(GRADIENTS_BYTES), [10 * GBE, 10 * GBE, GBE / 10], 1
    )
    assert found.workers == (0, 1)
    assert found.all_s > 3 * found.step_s
    least = worth_keeping([CARD, CARD.slower(2)], 256, Exchange(GRADIENTS_BYTES), [GBE, GBE], 2)
    assert least.workers == (0, 1)


def test_a_card_that_is_slow_alone_is_kept():
    """Without an exchange nobody costs anything but the grain of whole items."""
    speeds = [CARD, CARD.slower(20)]
    assert worth_keeping(speeds, 64, Exchange(0), [GBE, GBE], 1).workers == (0, 1)
    assert worth_keeping([CARD, CARD.slower(200)], 64, Exchange(0), [GBE, GBE], 1).workers == (0,)


def test_a_pc_with_a_slow_second_card_is_kept_or_left_out_as_a_whole():
    """Without its old card attic and study would be quickest, which no placement by machine can have."""
    cards, home = [CARD, CARD.slower(30), CARD.slower(3)], ["attic", "attic", "study"]
    links, exchange = [10 * GBE] * 3, Exchange(1_000_000)
    assert worth_keeping(cards, 16, exchange, links, 1).workers == (0, 2), "the cards by themselves"
    kept = worth_keeping(cards, 16, exchange, links, 1, home)
    assert kept.workers == (0, 1, 2)
    assert kept.step_s < step_s([cards[2]], 16, exchange, [10 * GBE]), "what dropping attic would leave"


@given(
    st.lists(st.tuples(SPEED, st.sampled_from("abc")), min_size=1, max_size=6),
    st.integers(6, 40),
    st.integers(0, 10**9),
)
def test_who_is_left_out_is_left_out_with_all_of_its_machine(workers, items, sent):
    speeds, machines = [speed for speed, _ in workers], [machine for _, machine in workers]
    kept = worth_keeping(speeds, items, Exchange(sent), [1e8] * len(workers), 1, machines)
    taken = {machines[worker] for worker in kept.workers}
    assert kept.workers == tuple(worker for worker, machine in enumerate(machines) if machine in taken)


@given(st.lists(SPEED, min_size=1, max_size=5), st.integers(5, 40), st.integers(0, 10**9), st.integers(1, 5))
def test_leaving_out_never_makes_a_step_longer(speeds, items, sent, least):
    links = [1e8 * (i + 1) for i in range(len(speeds))]
    kept = worth_keeping(speeds, items, Exchange(sent), links, least)
    assert kept.step_s <= kept.all_s == step_s(speeds, items, Exchange(sent), links)
    assert len(kept.workers) >= min(least, len(speeds))


@pytest.mark.parametrize(
    ("plain_s", "bf16_s", "chosen"),
    [(1.0, 0.5, "bf16"), (1.0, 0.96, "plain"), (1.0, 0.94, "bf16"), (0.5, 0.5, "plain")],
)
def test_rounding_has_to_save_something(plain_s, bf16_s, chosen):
    assert choose_sync({"plain": plain_s, "bf16": bf16_s}) == chosen


def test_what_diloco_sends_hides_behind_whole_steps():
    """4.2 s of exchange beside 0.45 s of computing, of which five steps go on meanwhile: 2.1 s in bfloat16."""
    sent = GRADIENTS_BYTES // 2
    hidden = step_s([CARD, CARD], 32, Exchange(sent, every_steps=16, behind_steps=5), [GBE, GBE])
    assert hidden == pytest.approx(0.446)
    waited = step_s([CARD, CARD], 32, Exchange(sent, every_steps=16, behind_steps=0), [GBE, GBE])
    assert waited == pytest.approx(0.446 + 2.09 / 16, rel=0.01)
    assert behind_steps(2.09, 0.446, 16) == 6
    assert behind_steps(2.09, 0.446, 4) == 4, "no more than there are"
    assert behind_steps(0, 0.446, 16) == 0


def test_diloco_and_bf16_send_half_of_the_bytes():
    recipe = validate(Recipe, {"name": "demo", "steps": 1}, "demo")
    shapes = [(896, 3584), (896,), (8, 8), (16, 4, 100)]
    elements = 896 * 3584 + 896 + 64 + 6400
    assert exchange_of("plain", recipe, shapes).sent_bytes == 4 * elements
    assert (
        exchange_of("diloco", recipe, shapes).sent_bytes
        == exchange_of("bf16", recipe, shapes).sent_bytes
        == 2 * elements
    )


def test_steps_that_all_compute_whole_say_nothing_about_shares():
    """The slow worker's times of all items are no reason to cut anew: until then nothing is cut."""
    pace = Pace([Speed(0, 1, 8), Speed(0, 1, 8)], 8, 0, 1, whole_until=2 * WINDOW_STEPS)
    for step in range(2 * WINDOW_STEPS):
        assert (pace.shares(step), pace.pieces(step, 1)) == ((8, 8), [8])
        assert pace.observe(step, [8, 80]) is None
    assert pace.shares(2 * WINDOW_STEPS) == (4, 4)
    found = [pace.observe(step, [4, 40]) for step in range(2 * WINDOW_STEPS, 3 * WINDOW_STEPS)]
    assert found[-1] == (7, 1)
