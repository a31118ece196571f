"""What people are told before and after a group is set elsewhere."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from evp.clock import from_ms
from evp.groups.reset import LogSpan, Mark, Position, Reset
from evp.limits import MIB
from evp.views.groups import reset_view
from tests.unit.test_views import text

MARK = Mark("1767323045678-0", from_ms(1_767_323_045_678))
RESET = Reset(
    group="evp-workers-group",
    stream="evp:events",
    database="evp",
    writes=True,
    before=Position(MARK, None),
    after=Position(None, MARK),
    again_events=12_000,
    skipped_events=0,
    missing_events=0,
    pending_entries=3,
    waiting_events=12_000,
    backlog_max=None,
    log=LogSpan(MARK, 12_000, 500, 600, 256 * MIB),
)


def said(width: int = 80, **changes: Any) -> str:
    """Return what is said of a reset with something changed."""
    return text(reset_view(msgspec.structs.replace(RESET, **changes)), width)


def test_a_plan() -> None:
    """Both places with their times, what comes again, what is pending, what the log has lost."""
    assert said().splitlines() == [
        "group evp-workers-group of evp:events, which writes to evp",
        "  from      behind 1767323045678-0  2026-01-02 03:04:05.678Z",
        "  to        the beginning",
        "  again     12,000 events are delivered once more;",
        "            the store knows what it has, so this does no harm",
        "  pending   3 entries stay so until they are acked",
        "  waiting   12,000 events have not been delivered then",
        "  log has   12,000 events since 1767323045678-0  2026-01-02 03:04:05.678Z",
        "  trimmed   500 events for good; of what is done it keeps",
        "            10 min or 256 MiB (EVP_LOG_RETENTION_S, EVP_LOG_RETENTION_BYTES)",
        "nothing was changed; --execute does it",
    ]


def test_skipping() -> None:
    """What is skipped is told, and of the writing group what of it the store lacks."""
    changes = {"again_events": 0, "skipped_events": 7, "missing_events": 2}
    shown = said(**changes, refused="no\x1b[2J")
    assert "skipped   7 events are never delivered to it" in shown
    assert "missing   2 of them are not in the store" in shown
    assert "not possible now: no\\x1b[2J" in shown
    assert "missing" not in said(**changes | {"missing_events": 0}, writes=False)


def test_other_ends() -> None:
    """What was done says so; where nothing moves that is told, and where servers would refuse."""
    shown = said(again_events=0, pending_entries=0, executed=True, backlog_max=12_000)
    assert "nothing is delivered again, and nothing is skipped" in shown
    assert "EVP_BACKLOG_MAX is 12,000" in shown
    assert shown.endswith("done; what reads by the group goes on from there\n")
    assert "other readers may not" in said(writes=False)
    assert "trimmed" not in said(log=LogSpan(None, 0, 0, 600, MIB))


@pytest.mark.parametrize("width", [40, 80])
def test_it_fits(width: int) -> None:
    """No line is longer than the terminal."""
    assert max(map(len, said(width).splitlines())) <= width


def test_json_has_both_places() -> None:
    """Programs get them as `from` and `to`."""
    told = msgspec.json.decode(msgspec.json.encode(RESET))
    assert told["from"]["last"] == {"entry_id": MARK.entry_id, "at": "2026-01-02T03:04:05.678000Z"}
    assert told["to"] == {"last": None, "next": told["from"]["last"]}
