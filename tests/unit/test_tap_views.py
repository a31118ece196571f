"""Lines of `evp tap`: aligned and never too wide, parsable, and harmless for a terminal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from rich.cells import cell_len

from evp.cli.tapping import Lines, ending_of, start_of, wanted_of
from evp.errors import UsageError
from evp.tap.showing import Counts
from evp.tap.wanted import Wanted
from evp.views.tap import Columns, json_line, logfmt_line, summary

ESCAPES = "\x1b[2J\x9b1m\x7f\u202e\r\n\U000e0001"


def shown(**members: Any) -> dict[str, Any]:
    """Return an event as JSON has it."""
    return {
        "event_id": "00000000-0000-806d-a837-4c295e2efd73",
        "type": "order.paid",
        "source": "shop",
        "id": "order-1042",
        "data": {"amount": 12, "order": {"tags": ["a", "b"], "note": "two words"}, "none": {}},
        "received_at": "2026-01-02T03:04:05.678Z",
    } | members


def test_columns_fit_a_terminal() -> None:
    """At 80 columns as at 200, each line has the time first, and what is too long is cut."""
    for width in (80, 200):
        columns = Columns(width)
        long = columns.line(shown(type="t" * 300, source="源" * 300, data="x" * 3_000))
        assert columns.line(shown()).startswith("03:04:05.678  order.paid")
        assert cell_len(long) <= width
        assert long.endswith("…")
        at = columns.heading.index("data")
        assert columns.line(shown()).index('{"amount') == at


def test_logfmt_names_are_paths() -> None:
    """The names that logfmt prints are the paths that `--where` takes; odd values are quoted."""
    assert logfmt_line(shown(type=None, source="", event_id="e")) == (
        'event_id=e type=null source="" id=order-1042 data.amount=12 '
        'data.order.tags="[\\"a\\",\\"b\\"]" data.order.note="two words" data.none={} '
        "received_at=2026-01-02T03:04:05.678Z"
    )


def test_no_text_is_a_command() -> None:
    """Escapes in names and values, and marks that turn a line around, reach no terminal."""
    odd = shown(type=ESCAPES, id=ESCAPES, data={ESCAPES: ESCAPES})
    for line in (Columns(160).line(odd), json_line(odd), logfmt_line(odd)):
        assert line.isprintable()
    assert msgspec.json.decode(json_line(odd)) == odd


def test_the_summary_tells_what_was_passed_over() -> None:
    """Events that were dropped or not even read are added up; broken entries are told apart."""
    assert summary(Counts(read=1, shown=1)) == "1 event shown, 0 passed over"
    told = summary(Counts(read=9, shown=3, dropped=2, unread=1_000, broken=1))
    assert told == "3 events shown, 1,002 passed over, 9 looked at, 1 entry that can't be read"


def test_flags() -> None:
    """Flags become conditions; a value may hold an equals sign."""
    wanted = wanted_of("t", None, None, ["data.a=b=c"], "1/100")
    assert wanted == Wanted(type="t", where=(("data.a", "b=c"),), every=100)
    assert wanted_of(None, None, None, [], None).is_all
    assert start_of("5m").ago_s == 300
    assert start_of("1970-01-01T00:00:01Z").at_ms == 1_000
    assert start_of("now").is_now
    assert ending_of(3, "1.5s") == (3, 1.5)


def test_flags_that_make_no_sense() -> None:
    """Each wrong flag is told with what is wanted."""
    for sample in ("1/0", "2/3", "1", "1/x"):
        with pytest.raises(UsageError, match="--sample"):
            wanted_of(None, None, None, [], sample)
    for where in ("data.a", "=x"):
        with pytest.raises(UsageError, match="PATH=VALUE"):
            wanted_of(None, None, None, [where], None)
    with pytest.raises(UsageError, match="20 times"):
        wanted_of(None, None, None, ["a=b"] * 21, None)
    with pytest.raises(UsageError, match="--from 'soon': wanted"):
        start_of("soon")
    with pytest.raises(UsageError, match="--duration"):
        ending_of(None, "0s")
    with pytest.raises(UsageError, match="json, logfmt, table"):
        Lines("xml")
