"""`--threshold 'p99<50ms'`: a bound on one figure of a report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import eq, ge, gt, le, lt, ne

from msgspec import Struct

from evp.errors import UsageError

LATENCIES = ("p50", "p90", "p95", "p99", "p99.9", "max")
COUNTS = (
    "lost",
    "doubled",
    "asked",
    "accepted",
    "rejected",
    "unanswered",
    "unsent",
    "late",
    "retried",
)
RATES = ("accepted_per_s", "stored_per_s")
NAMES = (*LATENCIES, *(f"stored_{name}" for name in LATENCIES), *COUNTS, *RATES)
"""What can be bounded; latencies in milliseconds, `stored_` ones until the store has the event."""

NAMES_VERIFIED = frozenset(("lost", "doubled"))
"""Those that are only known where every event is looked up."""

NAMES_BEHIND = NAMES_VERIFIED | {name for name in NAMES if name.startswith("stored_")}
"""Those that are not known where only the accepting is measured."""

_TIMES = frozenset(NAMES) - {*COUNTS, *RATES}
_OPERATORS = {"<": lt, "<=": le, ">": gt, ">=": ge, "==": eq, "!=": ne}
_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_FORM = re.compile(
    r"\s*([a-z_]+[0-9.]*)\s*(<=|>=|==|!=|<|>)\s*([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s)?\s*"
)


class Threshold(Struct, frozen=True):
    """One bound, in milliseconds where it is one of time."""

    text: str
    name: str
    operator: str
    bound: float


class Verdict(Struct, frozen=True):
    """What became of a threshold; `value` is None where the test could not measure it."""

    threshold: str
    value: float | None
    met: bool


def threshold_of(text: str) -> Threshold:
    """Return the threshold that a text describes. Raises UsageError."""
    match = _FORM.fullmatch(text)
    if match is None or match[1] not in NAMES or (match[4] and match[1] not in _TIMES):
        raise UsageError(
            f"--threshold {text!r}: wanted NAME OPERATOR NUMBER, such as 'p99<50ms' or 'lost==0'; "
            f"names: {', '.join(NAMES)}; operators: {' '.join(_OPERATORS)}; "
            "times in us, ms (without a unit) or s"
        )
    name, operator, number, unit = match.groups()
    return Threshold(text, name, operator, float(number) * _UNITS_MS[unit or "ms"])


def judge(threshold: Threshold, figures: Mapping[str, float | None]) -> Verdict:
    """Return whether a threshold is met; one whose figure is not known is missed."""
    value = figures.get(threshold.name)
    met = value is not None and _OPERATORS[threshold.operator](value, threshold.bound)
    return Verdict(threshold.text, value, met)
