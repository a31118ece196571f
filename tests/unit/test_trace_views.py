"""The story of an event on a terminal: in order, readable when narrow, no commands in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from evp import configuration
from evp.cli.tracing import asked_for, exit_code
from evp.errors import UsageError
from evp.identity import event_id
from evp.receipt import Receipt
from evp.stream.places import Place, Progress
from evp.trace.story import Arrival, DeadLetter, Fate, Searched, Story
from evp.views.trace import story_view
from tests.unit.test_views import text

AT = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
ID = "019b7ca9-8f2e-806d-a837-4c295e2efd73"
FRAME = "65f0c0ffee0ddba11ca7f00d"
ESCAPES = "\x1b[2J\x9b1m\x7f\u202e\r\n[red]"


def arrived(**members: Any) -> Arrival:
    """Return a frame that holds the event, as far as the log tells."""
    arrival = Arrival(
        "1767323045678-0",
        AT,
        frame_id=FRAME,
        srv="01" * 8,
        seq=42,
        index=2,
        events=17,
        size_bytes=12_345,
        in_log=True,
    )
    return msgspec.structs.replace(arrival, **members)


def stored(**members: Any) -> Arrival:
    """Return a frame that a worker has settled."""
    settled: dict[str, Any] = {
        "fate": Fate.STORED,
        "begun_at": AT + timedelta(milliseconds=3),
        "settled_at": AT + timedelta(milliseconds=9),
        "settled_after_ms": 9,
        "worker": "worker-1",
        "places": [Place("g", Progress.ACKED)],
    }
    return arrived(**settled | members)


def told(*arrivals: Arrival, width: int = 100, **members: Any) -> str:
    """Return a story as it is printed."""
    story = Story(event_id=ID, arrivals=list(arrivals), group="g")
    for name, value in members.items():
        setattr(story, name, value)
    return text(story_view(story), width)


@pytest.mark.parametrize("width", [80, 120])
def test_a_stored_event(width: int) -> None:
    """What happened comes in order, nothing is left out, and ids are whole."""
    shown = told(stored(), width=width, fate=Fate.STORED)
    order = ["is stored", "accepted", "begun", "by worker-1, 9 ms", "acked"]
    at = [" ".join(shown.split()).index(word) for word in order]
    assert at == sorted(at)
    assert "2026-01-02 03:04:05.687  stored" in shown
    for word in (ID, FRAME, "1767323045678-0", "01" * 8, "12,345"):
        assert word in shown
    assert max(map(len, shown.splitlines())) <= width


def test_an_event_that_waits() -> None:
    """Who has it, since when, how often; how much is before it and how quickly that goes."""
    place = Place("g", Progress.PENDING, "worker-1", 3, 61.5)
    other = Place("analytics", Progress.UNDELIVERED)
    arrival = arrived(fate=Fate.PENDING, places=[place, other], events_ahead=12_000)
    shown = " ".join(told(arrival, fate=Fate.PENDING, stored_per_s=4_000.4).split())
    assert "waits in the log" in shown
    assert "in group g: delivered 3 times, last to worker-1, 61.5 s ago" in shown
    assert "12,000 events before it: 3.0 s at the 4,000/s of now" in shown
    idle = " ".join(told(arrived(places=[place], events_ahead=0), stored_per_s=0.0).split())
    assert "none before it; nothing is stored at the moment" in idle
    assert "undelivered to group analytics" in shown
    first = " ".join(told(arrived(fate=Fate.PENDING), fate=Fate.PENDING).split())
    assert "group g does not exist yet" in first


def test_a_dead_letter_is_told_with_its_frame() -> None:
    """Why it was refused comes before its frame was settled, what to do about it at the end."""
    refused_at = AT + timedelta(milliseconds=5)
    letter = DeadLetter(
        f"{FRAME}:2", "dead", "id_conflict", "mend it", "why", 2, refused_at, AT.replace(hour=9)
    )
    shown = " ".join(
        told(
            stored(fate=Fate.DEAD_LETTER, judged_at=AT.replace(hour=10)),
            fate=Fate.DEAD_LETTER,
            dead_letters=[letter],
        ).split()
    )
    order = ["refused id_conflict: why", "settled by", "again, refused 2 times", "mend it"]
    at = [shown.index(word) for word in order]
    assert at == sorted(at)
    assert "judged again, after a replay or by the sweep" in shown


def test_a_duplicate_and_what_has_left_the_log() -> None:
    """Of a duplicate it is told whose; of an entry that is gone, what the log still has."""
    arrival = stored(fate=Fate.DUPLICATE, same_as=FRAME, in_log=False, places=[])
    begun = msgspec.structs.replace(arrival, log_first="5-0", log_last="9-0", partition=2)
    shown = " ".join(told(begun).split())
    assert f"of the event of frame {FRAME}; settled by worker-1, 9 ms" in shown
    assert "the log has entries from 5-0 to 9-0" in shown
    assert "partition" not in shown
    assert "the log is empty" in told(arrival)


def test_the_partition_is_told_where_there_are_several() -> None:
    """With each frame, and with what its stream has left."""
    begun = stored(in_log=False, log_first="5-0", log_last="9-0", partition=2)
    shown = " ".join(told(begun, partitions=3).split())
    assert "entry 1767323045678-0, partition 2, " in shown
    assert "partition 2 has entries from 5-0 to 9-0" in shown


def test_what_to_do_about_a_missing_event() -> None:
    """Where the store has lost the frame as well the log can tell it anew; else it is gone."""
    gone = told(stored(fate=Fate.MISSING), fate=Fate.MISSING)
    assert "restore it, or send it again" in gone
    forgotten = told(arrived(fate=Fate.MISSING), fate=Fate.MISSING)
    assert "evp verify --repair" in " ".join(forgotten.split())


def test_an_unknown_event() -> None:
    """Where nobody knows it, what may be the reason is told, and how far it was searched."""
    searched = Searched(1_200, whole=False)
    shown = " ".join(told(fate=Fate.UNKNOWN, searched=searched).split())
    assert "is not known" in shown
    assert "1,200, not all of them: its receipt would find it" in shown
    assert "evp verify" in shown
    timeless = text(story_view(Story(fate=Fate.UNKNOWN), is_timeless=True), 100)
    assert "give --time" in timeless


def test_no_text_is_a_command() -> None:
    """What senders and others wrote reaches no terminal as it is."""
    event = {"type": ESCAPES, "source": ESCAPES}
    arrival = stored(worker=ESCAPES, error=ESCAPES, places=[Place(ESCAPES, Progress.ACKED)])
    letter = DeadLetter("a", "dead", "bad_value", "m", ESCAPES, 1, AT, AT)
    shown = told(
        arrival, fate=None, event=event, dead_letters=[letter], store_error=ESCAPES, log_error="x"
    )
    assert all(line.isprintable() for line in shown.splitlines())
    assert shown.count("[red]") >= 5
    assert "The log could not be asked: x" in shown


def test_exit_codes() -> None:
    """0 where all is well or on its way, 1 where somebody should act, 3 where one was away."""
    codes = {fate: exit_code(Story(fate=fate)) for fate in Fate}
    assert {fate for fate, code in codes.items() if code == 1} == {
        Fate.DEAD_LETTER,
        Fate.MISSING,
        Fate.UNREADABLE,
        Fate.UNKNOWN,
    }
    assert exit_code(Story(fate=Fate.STORED, log_error="away")) == 3


def test_which_event_is_asked_for(tmp_path: Path) -> None:
    """By evp's id, by receipt, or by the sender's own id, with what its identity is made of."""
    settings = configuration.load({}, {}, cwd=tmp_path).settings

    def asked(*given: Any, search: bool = False) -> Any:
        return asked_for(settings, *given, search=search)

    assert asked(ID, None, None, None, 0).event_id == UUID(ID).bytes
    by_receipt = asked("0.1767323045678-0.3", None, None, None, 2)
    assert (by_receipt.receipt, by_receipt.nth) == (Receipt("1767323045678-0", 3), 2)
    time = "2026-01-02T03:04:05.6789Z"
    by_id = asked(None, "order-1042", "shop", time, 0)
    assert by_id.event_id == event_id("shop", "order-1042", 1_767_323_045_678)
    timeless = asked(None, "1", None, None, 0)
    assert timeless.event_id == event_id(settings.default_source, "1", 0)
    for given, wanted in (
        ((None, None, None, None, 0), "give an EVENT_ID"),
        ((ID, "1", None, None, 0), "give an EVENT_ID"),
        ((ID, None, "shop", None, 0), "belong to --id"),
        ((ID, None, None, None, 1), "--nth belongs"),
        (("nope", None, None, None, 0), "no event_id"),
        ((None, "1", None, "yesterday", 0), "--time"),
        ((None, "1", None, "2026-01-02T03:04:05", 0), "with a zone"),
    ):
        with pytest.raises(UsageError, match=wanted):
            asked(*given)
