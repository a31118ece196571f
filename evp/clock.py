"""The two clocks: wall time for data, monotonic time for waiting."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

monotonic_s = time.monotonic

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)

#: The last millisecond that a date can hold: the end of the year 9999.
MS_MAX = 253_402_300_799_999


def now_ms() -> int:
    """Return the wall time in whole milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def now() -> datetime:
    """Return the wall time as a datetime in UTC."""
    return datetime.now(UTC)


def from_ms(ms: int) -> datetime:
    """Return milliseconds since 1970 as a datetime in UTC."""
    return datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)


def to_ms(moment: datetime) -> int:
    """Return an aware datetime as whole milliseconds since 1970, rounded down."""
    return (moment - _EPOCH) // _MS
