import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.hours import WeeklyHours, duration_s, is_within, next_begin, weekly_hours

MONDAY = datetime.datetime(2026, 11, 23)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def test_durations():
    assert [duration_s(text) for text in ("45s", "30m", "3h", "2d")] == [45, 1800, 10_800, 172_800]


@pytest.mark.parametrize("text", ["", "30", "0m", "-1h", "1.5h", "3 h", "1w"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="as in 30m"):
        duration_s(text)


def test_spans():
    assert weekly_hours("09:00-17:00") == WeeklyHours(tuple(range(7)), 540, 1020)
    assert weekly_hours("sat 00:00-24:00") == WeeklyHours((5,), 0, 1440)
    assert weekly_hours("fri-mon 22:00-07:00") == WeeklyHours((4, 5, 6, 0), 1320, 1440 + 420)


@pytest.mark.parametrize(
    "text", ["", "mon", "24:00-24:00", "9:00-17:00", "00:00-24:01", "foo 00:00-01:00", "10:60-11:00"]
)
def test_what_are_no_hours_is_refused(text):
    with pytest.raises(ValueError, match="should be hours"):
        weekly_hours(text)


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 1439), st.integers(0, 1440), st.integers(0, 7 * 1440 - 1))
def test_a_moment_is_within_as_a_walk_minute_by_minute_says(first, last, start, end, minute):
    text = f"{DAYS[first]}-{DAYS[last]} {start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    covered = set()
    day = first
    while True:
        at = day * 1440 + start
        while True:
            covered.add(at % (7 * 1440))
            at += 1
            if at % 1440 == end % 1440:
                break
        if day == last:
            break
        day = (day + 1) % 7
    now = MONDAY + datetime.timedelta(minutes=minute)
    assert is_within([weekly_hours(text)], now) == (minute in covered)


@pytest.mark.parametrize(
    ("spans", "now", "begin"),
    [
        (["22:00-07:00"], MONDAY.replace(hour=12, second=30), MONDAY.replace(hour=22)),
        (["mon 00:00-01:00"], MONDAY.replace(hour=1), MONDAY + datetime.timedelta(days=7)),
        (["sun 23:00-24:00", "tue 06:00-07:00"], MONDAY.replace(hour=1), MONDAY.replace(day=24, hour=6)),
    ],
)
def test_when_hours_begin_again(spans, now, begin):
    assert next_begin([weekly_hours(text) for text in spans], now) == begin
