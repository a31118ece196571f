"""Events of `evp tap`, one a line: for people, for `logfmt` readers, as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from evp.tap.showing import Counts
from evp.views.untrusted import json_text, printable

_HEADINGS = ("accepted", "type", "source", "id", "data")
_GAP = "  "
_CLOCK_CHARS = 12
#: `received_at` as RFC 3339: the time of day in it.
_CLOCK = slice(11, 23)
_QUOTED = frozenset(' "=')


class Columns:
    """Lines of a width, in cells of a terminal; what is too long is cut."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._widths = (_CLOCK_CHARS, min(28, width // 5), min(24, width // 8), min(36, width // 6))

    @property
    def heading(self) -> str:
        """The line above all others."""
        return self._line(_HEADINGS)

    def line(self, event: Mapping[str, Any]) -> str:
        """Return an event as a line: when it was accepted, its attributes, as much of its data."""
        data = event.get("data", event.get("data_base64"))
        values = (
            str(event.get("received_at", ""))[_CLOCK],
            event.get("type", ""),
            event.get("source", ""),
            event.get("id", event["event_id"]),
            "" if data is None else json_text(data),
        )
        return self._line([printable(value) for value in values])

    def _line(self, values: Sequence[str]) -> str:
        *fixed, last = values
        cells = [_fit(value, width) for value, width in zip(fixed, self._widths, strict=True)]
        return _cut(_GAP.join([*cells, last]), self._width).rstrip()


def json_line(event: Mapping[str, Any]) -> str:
    """Return an event as JSON."""
    return json_text(event)


def logfmt_line(event: Mapping[str, Any]) -> str:
    """Return an event as `name=value` pairs; the names are those that `--where` takes."""
    return " ".join(f"{_name(path)}={_value(value)}" for path, value in _leaves(event, ""))


def summary(counts: Counts) -> str:
    """Return what became of all events."""
    noun = "event" if counts.shown == 1 else "events"
    parts = [f"{counts.shown:,} {noun} shown", f"{counts.passed_over:,} passed over"]
    if counts.read > counts.shown + counts.dropped:
        parts.append(f"{counts.read:,} looked at")
    if counts.broken:
        noun = "entry" if counts.broken == 1 else "entries"
        parts.append(f"{counts.broken:,} {noun} that can't be read")
    return ", ".join(parts)


def _fit(text: str, width: int) -> str:
    return set_cell_size(_cut(text, width), width)


def _cut(text: str, width: int) -> str:
    # Cut by characters first: a text can be long, and a character has a cell or two.
    if len(text) <= width and cell_len(text) <= width:
        return text
    return set_cell_size(text[:width], width - 1).rstrip() + "…"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        yield path, value
        return
    for key, below in value.items():
        yield from _leaves(below, f"{path}.{key}" if path else key)


def _name(path: str) -> str:
    return "".join("_" if char in _QUOTED else char for char in printable(path))


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json_text(value)
    is_plain = text and text.isprintable() and not _QUOTED & set(text)
    return text if is_plain else json_text(text)
