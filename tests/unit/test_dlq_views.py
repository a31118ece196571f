"""Dead letters on a terminal: readable when narrow, and never commands to the terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from evp.dlq.actions import Account, Listing, Shown
from evp.storage.dlq import Letter
from evp.storage.replay import Refused
from evp.views.dlq import account_view, listing_view, selection_view, shown_view
from tests.unit.test_views import text

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LETTER = Letter(
    id="65f0c0ffee0ddba11ca7f00d:3",
    state="dead",
    reason="id_conflict",
    detail="another event has its id",
    error="code 11000",
    stream="s",
    group="g",
    entry="1-0",
    attempts=1,
    first_at=AT,
    last_at=AT,
    payload_bytes=1_234,
    type="page_view",
    source="shop",
)
ESCAPES = "\x1b[2J\x9b1m\x7f\u202e\r\n"


def with_(**changes: Any) -> Letter:
    """Return a letter with something changed."""
    return msgspec.structs.replace(LETTER, **changes)


@pytest.mark.parametrize("width", [40, 80])
def test_list(width: int) -> None:
    """Counts with what to do come first, then a letter in three lines; nothing is left out."""
    listing = Listing(3, more=False, by_reason={"id_conflict": 3}, letters=[LETTER])
    shown = text(listing_view(listing, {"id_conflict": "mend the sender"}), width)
    flat = "".join(shown.split())
    for said in ("3 dead letters", "mend the sender", LETTER.id, "page_view, from shop, 1 attempt"):
        assert said.replace(" ", "") in flat
    assert "and 2 older" in shown
    assert max(map(len, shown.splitlines())) <= width


def test_list_of_too_many() -> None:
    """Where the count was ended it says so."""
    listing = Listing(10_000, more=True, by_reason={"id_conflict": 10_000})
    assert text(listing_view(listing, {})).startswith("more than 10,000 dead letters\n")


def test_states_that_do_not_count_are_told() -> None:
    """In a list of all, a letter that does not count says why."""
    listing = Listing(1, letters=[with_(state="purged")])
    assert "1,234 bytes, purged" in text(listing_view(listing, {}))
    assert "dead" not in text(listing_view(Listing(0, letters=[LETTER]), {})).splitlines()[1]


def test_show_is_bounded() -> None:
    """An event is shown up to a bound, and what is missing is told."""
    shown = Shown(LETTER, "mend it", whole=True, event={"data": "x" * 1_000})
    assert "characters more: --raw shows all" in text(shown_view(shown, 100))
    everything = text(shown_view(shown, None))
    assert everything.count("x") >= 1_000
    assert "--raw" not in everything
    assert "mend it" in everything


def test_show_of_what_was_not_kept_whole() -> None:
    """Where less was kept than received, that is told with the size of the whole."""
    shown = Shown(LETTER, "", whole=False, payload=b"\x00abc")
    assert r"\x00abc" in text(shown_view(shown, None))
    assert "1,234 bytes were received, not all were kept" in text(shown_view(shown, None))


def test_report() -> None:
    """What was done, what was refused again and why, what is missing, and that it goes on."""
    account = Account(
        5, {"a": 5}, 1, {"id_conflict": 3}, [Refused("i", "id_conflict", "no")], ["m"]
    )
    shown = text(account_view(account, "delivered"))
    assert shown.splitlines() == [
        "1 of 5 delivered, 3 refused again",
        "    3 id_conflict",
        "    i  id_conflict: no",
        "    and 2 more",
        "    m  no such letter, or none to change",
        "not finished: the rest is as it was; the same command goes on",
    ]
    assert "5 dead letters to replay" in text(selection_view(account, "replay"))
    assert text(account_view(account, "purged")).startswith("1 of 5 purged, 3 left as they are\n")


def test_report_of_a_replayed_entry() -> None:
    """What became of the events is told where letters alone don't say it."""
    account = Account(2, {"a": 2}, 2, finished=True, stored=1_000, duplicate=2)
    assert text(account_view(account, "delivered")).splitlines() == [
        "2 of 2 delivered",
        "    events: 1,000 stored, 2 stored before, 0 dead again",
    ]


def test_nothing_commands_the_terminal() -> None:
    """Whatever a sender puts into an event, no escape sequence reaches the terminal."""
    letter = with_(detail=ESCAPES, type=ESCAPES, source=ESCAPES)
    account = Account(1, {}, 0, {"a": 1}, [Refused("i", "a", ESCAPES)])
    views = [
        listing_view(Listing(1, letters=[letter]), {}),
        shown_view(Shown(letter, "", event={ESCAPES: ESCAPES}), None),
        shown_view(Shown(letter, "", payload=ESCAPES.encode()), None),
        account_view(account, "delivered"),
    ]
    for view in views:
        assert all(char.isprintable() or char == "\n" for char in text(view))
