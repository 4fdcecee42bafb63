"""Durations and weekly hours as an inventory writes them. Pure; local time, as the owner of a PC means it."""

import datetime
import re
from collections.abc import Iterable
from typing import NamedTuple

_DURATION = re.compile(r"([1-9][0-9]*)(s|m|h|d)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_S = 3650 * 86_400
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY, _CLOCK = f"({'|'.join(_DAYS)})", "([0-9]{2}):([0-5][0-9])"
_HOURS = re.compile(f"(?:{_DAY}(?:-{_DAY})? )?{_CLOCK}-{_CLOCK}")
_DAY_MINUTES = 24 * 60


class WeeklyHours(NamedTuple):
    """A span of each chosen day; one that ends at or before its start goes on into the next day."""

    days: tuple[int, ...]
    """Monday is 0."""
    start_minute: int
    end_minute: int
    """Of the day on which it started; more than 1,440 where it goes on past midnight."""


def duration_s(text: str) -> int:
    """Seconds of a duration such as "30m" or "3h"; ValueError where it is none."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} should be a number with s, m, h or d, as in 30m")
    if len(match[1]) > 9 or int(match[1]) * _UNIT_S[match[2]] > _LONGEST_S:
        raise ValueError(f"{text[:20]!r} is too long: at most {_LONGEST_S // _UNIT_S['d']}d")
    return int(match[1]) * _UNIT_S[match[2]]


def weekly_hours(text: str) -> WeeklyHours:
    """The span "mon-fri 22:00-07:00" or, for every day, "22:00-07:00"; ValueError where it is none."""
    match = _HOURS.fullmatch(text)
    start, end = (int(match[i]) * 60 + int(match[i + 1]) for i in (3, 5)) if match else (0, _DAY_MINUTES + 1)
    if match is None or start >= _DAY_MINUTES or end > _DAY_MINUTES:
        raise ValueError(f"{text!r} should be hours such as 22:00-07:00 or mon-fri 09:00-17:00")
    first = _DAYS.index(match[1]) if match[1] else 0
    last = _DAYS.index(match[2] or match[1]) if match[1] else 6
    days = tuple((first + i) % 7 for i in range((last - first) % 7 + 1))
    return WeeklyHours(days, start, end if end > start else end + _DAY_MINUTES)


def next_begin(spans: Iterable[WeeklyHours], now: datetime.datetime) -> datetime.datetime:
    """The first full minute after `now` that lies in one of the spans; ValueError without spans."""
    spans = tuple(spans)
    minute = now.replace(second=0, microsecond=0)
    for _ in range(8 * _DAY_MINUTES):
        minute += datetime.timedelta(minutes=1)
        if is_within(spans, minute):
            return minute
    raise ValueError("no hours")


def is_within(spans: Iterable[WeeklyHours], now: datetime.datetime) -> bool:
    """Whether a moment lies in one of the spans; a span's end does not belong to it."""
    minute = now.hour * 60 + now.minute
    return any(
        now.weekday() in span.days
        and span.start_minute <= minute < span.end_minute
        or (now.weekday() - 1) % 7 in span.days
        and minute + _DAY_MINUTES < span.end_minute
        for span in spans
    )
