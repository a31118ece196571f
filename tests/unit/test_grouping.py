"""Where to set a group, as flags say it."""

from __future__ import annotations

from typing import Any

import pytest

from evp.cli.grouping import Where, checked, named_target_of, target_of
from evp.clock import from_ms, now_ms
from evp.errors import UsageError
from evp.stream.positions import EARLIEST, LATEST

NOWHERE = {"to_datetime": None, "by_duration": None, "to_earliest": False, "to_latest": False}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"to_earliest": True, "to_latest": True},
        {"by_duration": "90m", "to_datetime": "2026-01-02T03:04:05Z"},
        {"by_duration": "soon"},
        {"by_duration": "0s"},
    ],
)
def test_one_place_is_wanted(given: dict[str, Any]) -> None:
    """None, two, or a span that is none, is a mistake."""
    with pytest.raises(UsageError, match=r"say where to|wanted a span"):
        checked(Where(**NOWHERE | given))


def test_moments() -> None:
    """A time with a zone, an age, and the two ends; never a time to come."""
    assert target_of("--to-datetime", "1970-01-01T01:00:01.5+01:00") == "1500"
    assert now_ms() - 60_000 <= int(target_of("--from", "1m")) + 1_000 <= now_ms()
    assert named_target_of("--from", "earliest") == EARLIEST
    assert named_target_of("--from", "latest") == LATEST
    assert target_of("--to-datetime", "1969-12-31T00:00:00Z") == EARLIEST
    for wrong in ("tomorrow", "2026-01-02", from_ms(now_ms() + 60_000).isoformat()):
        with pytest.raises(UsageError, match=r"--from .*(wanted|still to come)"):
            named_target_of("--from", wrong)
