"""Numbers with their units, short enough for a column: `12.3k/s`, `1.4 GiB`, `3.2 s`."""

from __future__ import annotations

#: Stands where nobody knows a number, or there is none.
UNKNOWN = "-"

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def count(number: float) -> str:
    """Return a number of things: whole up to 99,999, then rounded to three digits."""
    if abs(number) < 100_000:
        return f"{number:,.0f}"
    for unit, size in (("k", 1e3), ("M", 1e6), ("G", 1e9)):
        if abs(number) < 999.5 * size:
            return _three_digits(number / size) + unit
    return f"{number / 1e12:,.2f}T"


def rate(per_s: float) -> str:
    """Return things a second."""
    if 0 < abs(per_s) < 9.95:
        return f"{per_s:.1f}/s"
    if abs(per_s) < 999.5:
        return f"{per_s:.0f}/s"
    for unit, size in (("k", 1e3), ("M", 1e6)):
        if abs(per_s) < 999.5 * size:
            return f"{_three_digits(per_s / size)}{unit}/s"
    return f"{per_s / 1e9:.2f}G/s"


def change(per_s: float) -> str:
    """Return how much more, or less, there is each second."""
    sign = "+" if per_s > 0 else "-" if per_s < 0 else ""
    return sign + rate(abs(per_s))


def size(size_bytes: float) -> str:
    """Return bytes in the largest unit of which there is at least one."""
    for unit in _SIZES:
        if abs(size_bytes) < 1023.5 or unit == _SIZES[-1]:
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f} B" if unit == "B" else f"{_three_digits(size_bytes)} {unit}"


def milliseconds(ms: float) -> str:
    """Return a time of milliseconds; one of more than a second in seconds."""
    if ms >= 999.5:
        return seconds(ms / 1000)
    return f"{ms:.0f} ms" if ms >= 9.95 or ms == 0 else f"{ms:.1f} ms"


def seconds(time_s: float) -> str:
    """Return a time of seconds, minutes, hours or days."""
    if time_s < 9.95:
        return f"{time_s:.1f} s"
    if time_s < 2 * _MINUTE_S:
        return f"{time_s:.0f} s"
    if time_s < 2 * _HOUR_S:
        return f"{time_s / _MINUTE_S:.0f} min"
    if time_s < 2 * _DAY_S:
        return f"{time_s / _HOUR_S:.0f} h"
    return f"{time_s / _DAY_S:,.0f} d"


def _three_digits(number: float) -> str:
    if abs(number) < 9.995:
        return f"{number:.2f}"
    return f"{number:.1f}" if abs(number) < 99.95 else f"{number:.0f}"
