"""What stands behind the question mark of a URL: known names only, each once, plain values.

A value is compared with what is stored as it is. Nothing in it is ever an operator,
a pattern or the name of a field.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, ValidationError

from evp.clock import MS_MAX, to_ms
from evp.errors import Refusal
from evp.server.limits import QUERY_VALUE_CHARS_MAX
from evp.server.parts import AnyRequest

_RELATIVE = re.compile(r"now(?:-([0-9]{1,6})([smhd]))?")
_Time = Annotated[datetime, Meta(tz=True)]
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def invalid(detail: str) -> Refusal:
    """Return the refusal of a query."""
    return Refusal("invalid_query", detail)


def check_names(request: AnyRequest, known: Collection[str]) -> None:
    """Raise Refusal `invalid_query` unless each parameter is known, there once, and not too long.

    What was sent is not repeated in the answer.
    """
    seen: set[str] = set()
    for name, value in request.query_params.multi_items():
        if name not in known:
            told = f"known ones are {', '.join(known)}" if known else "there are none here"
            raise invalid(f"a parameter is unknown; {told}")
        if name in seen:
            raise invalid(f"{name} is there twice")
        if not value or len(value) > QUERY_VALUE_CHARS_MAX:
            raise invalid(f"{name} has 1 to {QUERY_VALUE_CHARS_MAX} characters")
        seen.add(name)


def moment_ms(name: str, text: str, now_ms: int) -> int:
    """Return a moment in milliseconds since 1970: RFC 3339 with a zone, `now`, or `now-90m`.

    Units are s, m, h and d. Raises Refusal `invalid_query`.
    """
    relative = _RELATIVE.fullmatch(text)
    if relative is not None:
        count, unit = relative.groups()
        moment = now_ms - int(count) * _UNITS_MS[unit] if count else now_ms
    else:
        moment = _time_ms(name, text)
    if moment < 0:
        raise invalid(f"{name} lies before 1970")
    if moment > MS_MAX:
        # Of the year 9999 by its own zone, and later by UTC.
        raise invalid(f"{name} lies after the year 9999")
    return moment


def _time_ms(name: str, text: str) -> int:
    try:
        time = msgspec.convert(text, _Time)
    except ValidationError:
        hint = "; a + in a URL is written %2B" if " " in text else ""
        raise invalid(
            f"{name} is an RFC 3339 time with a zone, now, or now-90m (s, m, h, d){hint}"
        ) from None
    return to_ms(time)
