"""Moments as people write them in flags: an age, or a time with a zone."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import msgspec

from evp.clock import now

_AGE = re.compile(r"(\d{1,6})([smhd])")
_SPAN = re.compile(r"(\d{1,7}(?:\.\d{1,3})?)(ms|s|m|h|d)")
_SPAN_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment_of(text: str) -> datetime | None:
    """Return the moment, in UTC, of an age (`90s`, `30m`, `24h`, `7d`) or an RFC 3339 time.

    None if it is neither, or lies before the calendar begins.
    """
    age = _AGE.fullmatch(text)
    try:
        if age is not None:
            return now() - timedelta(**{_UNITS[age[2]]: int(age[1])})
        moment = msgspec.convert(text, datetime)
        return None if moment.tzinfo is None else moment.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        return None


def span_s_of(text: str) -> float | None:
    """Return the seconds of a span (`500ms`, `10s`, `1.5m`, `2h`, `90d`); None if it is none."""
    span = _SPAN.fullmatch(text.strip())
    return None if span is None else float(span[1]) * _SPAN_UNITS_S[span[2]]
