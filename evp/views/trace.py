"""The story of an event as a person reads it: one thing that happened a line, ids never broken."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evp.stream.places import Place
from evp.trace.story import Arrival, DeadLetter, Searched, Story
from evp.views.untrusted import printable

Line = tuple[datetime | None, str, str]
"""When, what, and what there is to say; without a when it is so now."""

_FATES = {
    "stored": "is stored",
    "erased": "was stored and is erased: what is left of it is enough for the counts",
    "dead_letter": "is not stored: it is a dead letter",
    "expired": "was stored, and its time of retention is over",
    "pending": "waits in the log",
    "writing": "is being written by a worker",
    "missing": "is missing: its group has done with it, and neither store nor dead letter has it",
    "unreadable": "waits in the log, in an entry that can't be read",
    "unknown": "is not known, neither to the log nor to the store",
}
_MENDS = {
    "missing": "`evp verify` tells why, and what else is missing: restore it, or send it again.",
    "unreadable": "Workers make a dead letter of it, or leave it pending for a newer evp.",
}
_REPAIR = (
    "The store does not know its frame: it was put back to an older state, or the group was set "
    "forward. `evp verify --repair` has it written again from the log."
)
_STYLES = {"stored": "green", "dead_letter": "red", "missing": "red", "unknown": "yellow"}
_WHAT_CHARS = len("undelivered")
_ATTRIBUTES = ("type", "source", "id", "subject", "time", "erased_at")
_UNKNOWN = (
    "it was never accepted: the answer to it was no 202, or another evp gave it",
    "it was sent under another identity: with another source, id or time (docs/IDENTITY.md)",
    "retention has deleted it, and which events these were is not kept: its receipt would tell",
    "the log has lost it before a worker had it: `evp verify` proves that, or that nothing is lost",
)


def story_view(story: Story, *, is_timeless: bool = False) -> RenderableType:
    """Return the story; `is_timeless` if it was looked for by an id without a time."""
    parts: list[RenderableType] = [_headline(story)]
    if story.event is not None:
        parts.append(_attributes(story.event))
    for lines in _chapters(story):
        parts += [Text(), _table(sorted(lines, key=_when))]
    if story.searched is not None:
        parts += [Text(), Text(_search(story.searched))]
    for away, error in (("log", story.log_error), ("store", story.store_error)):
        if error is not None:
            parts.append(Text(f"The {away} could not be asked: {printable(error)}", style="yellow"))
    if story.fate == "unknown":
        parts += [Text(), *_reasons(is_timeless=is_timeless)]
    if story.fate in _MENDS:
        parts += [Text(), Text(_mend(story))]
    return Group(*parts)


def _headline(story: Story) -> Text:
    said = _FATES[story.fate] if story.fate else "can't be told whole now"
    return Text(f"event {story.event_id or '?'} {said}", style=_STYLES.get(story.fate or "", ""))


def _mend(story: Story) -> str:
    is_forgotten = any(one.fate == "missing" and one.begun_at is None for one in story.arrivals)
    return _REPAIR if is_forgotten else _MENDS[story.fate or ""]


def _attributes(event: dict[str, object]) -> Text:
    told = [f"{name} {printable(event[name])}" for name in _ATTRIBUTES if name in event]
    return Text("  " + ", ".join(told))


def _chapters(story: Story) -> Iterator[list[Line]]:
    """Give the lines about each frame, its dead letters included; then those of other letters."""
    letters = list(story.dead_letters)
    for arrival in story.arrivals:
        own = [one for one in letters if one.id == f"{arrival.frame_id}:{arrival.index}"]
        letters = [one for one in letters if one not in own]
        lines = list(_arrival_lines(story, arrival))
        yield lines + [line for one in own for line in _letter_lines(one)]
    if letters:
        yield [line for one in letters for line in _letter_lines(one)]


def _when(line: Line) -> tuple[bool, float]:
    moment = line[0]
    return moment is None, 0.0 if moment is None else moment.timestamp()


def _table(lines: list[Line]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, min_width=_WHAT_CHARS)
    table.add_column(overflow="fold")
    for moment, what, text in lines:
        when = "now" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}.{moment:%f}"[:23]
        table.add_row(Text(when), Text(what), Text(text))
    return table


def _arrival_lines(story: Story, arrival: Arrival) -> Iterator[Line]:
    yield arrival.accepted_at, "accepted", _accepted(story, arrival)
    if arrival.begun_at is not None:
        yield arrival.begun_at, "begun", "a worker began to write its frame"
    if arrival.settled_at is not None:
        yield arrival.settled_at, *_settled(arrival)
    if arrival.judged_at is not None:
        yield arrival.judged_at, "judged", "again, after a replay or by the sweep"
    if arrival.error is not None:
        yield None, "unreadable", printable(arrival.error)
    for place in arrival.places:
        yield None, str(place.progress), _place(story, arrival, place)
    if arrival.in_log and not any(one.group == story.group for one in arrival.places):
        yield None, "undelivered", f"group {printable(story.group)} does not exist yet"
    if arrival.in_log is False:
        yield None, "left log", _gone(story, arrival)


def _accepted(story: Story, arrival: Arrival) -> str:
    parts = [f"entry {arrival.entry}"]
    if story.partitions > 1:
        parts.append(f"partition {arrival.partition}")
    if arrival.index is not None and arrival.events is not None:
        parts.append(f"event {arrival.index + 1:,} of {arrival.events:,}")
    if arrival.frame_id is not None:
        parts.append(f"frame {arrival.frame_id}")
    if arrival.size_bytes is not None:
        parts.append(f"{arrival.size_bytes:,} bytes")
    if arrival.external:
        parts.append("of another program")
    elif arrival.srv is not None:
        parts.append(f"number {arrival.seq:,} of server epoch {arrival.srv}")
    return ", ".join(parts)


def _settled(arrival: Arrival) -> tuple[str, str]:
    by = "" if arrival.worker is None else f"by {printable(arrival.worker)}, "
    after = f"{arrival.settled_after_ms or 0:,} ms after it was accepted"
    if arrival.fate == "stored":
        return "stored", by + after
    if arrival.fate == "duplicate":
        same = "" if arrival.same_as is None else f"of the event of frame {arrival.same_as}; "
        return "duplicate", f"{same}settled {by}{after}"
    fate = arrival.fate or "not known what became of it"
    return "settled", f"{by}{after}: {fate.replace('_', ' ')}"


def _place(story: Story, arrival: Arrival, place: Place) -> str:
    group = f"group {printable(place.group)}"
    if place.progress == "acked":
        return f"by {group}"
    waits = ""
    if place.group == story.group and arrival.events_ahead is not None:
        waits = _waits(arrival.events_ahead, story.stored_per_s)
    if place.progress == "undelivered":
        return f"to {group}{waits}"
    times = f"delivered {place.deliveries or 0:,} time{'' if place.deliveries == 1 else 's'}"
    return (
        f"in {group}: {times}, last to {printable(place.consumer)}, "
        f"{place.idle_s or 0:,.1f} s ago{waits}"
    )


def _waits(events_ahead: int, stored_per_s: float | None) -> str:
    """Return how many events are before one, and how long they take at the rate of now."""
    waits = f"; {events_ahead:,} events before it" if events_ahead else "; none before it"
    if stored_per_s is None:
        return waits
    if not stored_per_s:
        return f"{waits}; nothing is stored at the moment"
    return f"{waits}: {events_ahead / stored_per_s:,.1f} s at the {stored_per_s:,.0f}/s of now"


def _gone(story: Story, arrival: Arrival) -> str:
    what = f"partition {arrival.partition}" if story.partitions > 1 else "the log"
    if arrival.log_first is None:
        return f"{what} is empty"
    return f"{what} has entries from {arrival.log_first} to {arrival.log_last}"


def _letter_lines(letter: DeadLetter) -> Iterator[Line]:
    times = f"refused {letter.attempts:,} time{'' if letter.attempts == 1 else 's'}"
    yield letter.first_at, "refused", f"{letter.reason}: {printable(letter.detail)}"
    if letter.last_at != letter.first_at:
        yield letter.last_at, "refused", f"again, {times} altogether"
    yield None, "dead letter", f"{letter.id}, {letter.state}: {letter.mend}"


def _search(searched: Searched) -> str:
    whole = "all" if searched.whole else "not all of them: its receipt would find it"
    return f"events of the log that were searched: {searched.events:,}, {whole}"


def _reasons(*, is_timeless: bool) -> list[Text]:
    reasons = list(_UNKNOWN)
    if is_timeless:
        reasons[1] = "it was sent with a time, which then belongs to its identity: give --time"
    return [Text("It may be that"), *(Text(f"- {reason}") for reason in reasons)]
