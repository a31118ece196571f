"""The parts of `evp keys`: what its flags mean, and how a new key is shown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from evp.api_keys import SCOPES, is_name
from evp.cli.moments import span_s_of
from evp.cli.output import Output
from evp.clock import MS_MAX, now_ms, to_ms
from evp.errors import Unavailable, UsageError
from evp.keybook import KeyRow, NewKey


def require_name(name: str) -> None:
    """Raise UsageError if a key can't have this name."""
    if not is_name(name):
        raise UsageError(
            f"{name!r} is no name for a key: wanted letters, digits, dots, dashes and underscores, "
            "64 at most, and not what looks like an id"
        )


def scopes_of(given: Sequence[str]) -> tuple[str, ...]:
    """Return the scopes in their own order. Raises UsageError."""
    for scope in given:
        if scope not in SCOPES:
            raise UsageError(f"--scope {scope!r}: wanted {', '.join(SCOPES[:-1])} or {SCOPES[-1]}")
    return tuple(scope for scope in SCOPES if scope in given)


def end_of(text: str | None) -> int | None:
    """Return when a key ends, ms; None if it was not said. Raises UsageError."""
    if text is None:
        return None
    span_s, at_ms = span_s_of(text), now_ms()
    if span_s is not None:
        end_ms = at_ms + int(span_s * 1000)
    else:
        try:
            moment = msgspec.convert(text, datetime)
        except msgspec.ValidationError:
            moment = None
        if moment is None or moment.tzinfo is None:
            raise UsageError(f"--expires {text!r}: wanted 90d, 12h or 2030-12-31T00:00:00Z")
        end_ms = to_ms(moment.astimezone(UTC))
    if not at_ms < end_ms <= MS_MAX:
        raise UsageError(f"--expires {text!r}: wanted a time to come")
    return end_ms


def grace_ms_of(text: str) -> int:
    """Return for how long an old key works on, ms. Raises UsageError."""
    span_s = span_s_of(text)
    if span_s is None:
        raise UsageError(f"--grace {text!r}: wanted a span such as 0s, 30m, 24h or 7d")
    return int(span_s * 1000)


def show(made: NewKey, old: Sequence[KeyRow], *, json: bool) -> None:
    """Print a new key: alone on standard output, with what is to be known about it beside."""
    output = Output()
    if json:
        output.say_json({"key": made.text, "made": made.row, "old": old})
        return
    output.say(made.text)
    row = made.row
    limit = f", {row.rate_per_s:,} events/s for each server" if row.rate_per_s else ""
    end = f", until {_moment(row.expires_at)}" if row.expires_at else ""
    _note(f"{row.name} ({row.id}): {', '.join(row.scopes)}{limit}{end}")
    _note("This is the only time it is shown. Servers take it within 5 s.")
    for one in old:
        ends = "is revoked" if one.revoked_at else f"works until {_moment(one.expires_at)}"
        _note(f"the old one, {one.id}, {ends}")


def tell_away(away: Sequence[Unavailable]) -> None:
    """Say what could not be asked."""
    for error in away:
        _note(f"there may be more: {error}")


def _note(text: str) -> None:
    print(text, file=sys.stderr)


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
