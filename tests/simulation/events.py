"""What simulated clients send."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

import msgspec
from msgspec import Struct

from evp.clock import from_ms, to_ms
from evp.identity import event_id
from tests.simulation.machine import STARTS_AT_S

GOOD, BAD, KILLER = "good", "bad", "killer"
"""Kinds of events, which are their types as well: taken by the store; refused by it until
somebody mends it; deadly for whoever writes it."""

SOURCE = "simulated"
_MINUTES = 3
_WITHOUT_ID = 1_000
"""The content of the first event without id is one more; each has another one."""


class Sent(Struct, frozen=True):
    """An event as a client sends it: perhaps one that was sent before, perhaps changed.

    A plain one has no time, perhaps no id either, and is written to the stream by another
    program.
    """

    id: str
    kind: str
    content: int
    minute: int
    is_plain: bool = False

    @property
    def body(self) -> dict[str, object]:
        """The event as JSON."""
        return {
            "id": self.id,
            "type": self.kind,
            "source": SOURCE,
            "time": self.at.isoformat(),
            "data": {"content": self.content},
        }

    @property
    def fields(self) -> list[bytes]:
        """The event as the fields of a plain entry."""
        data = b'{"content": %d}' % self.content
        texts = (b"type", self.kind.encode(), b"source", SOURCE.encode(), b"data", data)
        return [b"id", self.id.encode(), *texts] if self.id else [*texts]

    @property
    def at(self) -> datetime:
        """Its time, unless it is a plain one."""
        return from_ms(STARTS_AT_S * 1000) - timedelta(minutes=self.minute)

    @property
    def event_id(self) -> bytes:
        """The `_id` that it gets, if it has an id."""
        return event_id(SOURCE, self.id, 0 if self.is_plain else to_ms(self.at))


class Client:
    """Draws what is sent next: something new, the same again, or another one of that id."""

    def __init__(self, chance: Random, kinds: list[str]) -> None:
        self._chance = chance
        self._kinds = kinds
        self._known: list[Sent] = []
        self._disputed: set[str] = set()
        self._plain: list[Sent] = []

    def request(self) -> list[Sent]:
        """Return the events of one request, each id once."""
        some = [self._next() for _ in range(self._chance.choice((1, 1, 1, 2, 3)))]
        return list({one.id: one for one in some}.values())

    def is_disputed(self, sent: Sent) -> bool:
        """Return whether its id was ever sent with other contents."""
        return sent.id in self._disputed

    def plain(self) -> Sent:
        """Return an event of another program: without id, a new one, or one of before."""
        chance = self._chance
        known = [one for one in self._plain if one.id]
        if chance.random() < 0.4:
            sent = Sent("", GOOD, _WITHOUT_ID + len(self._plain), 0, is_plain=True)
        elif known and chance.random() < 0.4:
            sent = chance.choice(known)
            if chance.random() < 0.2:
                self._disputed.add(sent.id)
                sent = Sent(sent.id, sent.kind, 1, 0, is_plain=True)
        else:
            sent = Sent(f"p{len(self._plain)}", GOOD, 0, 0, is_plain=True)
        self._plain.append(sent)
        return sent

    def _next(self) -> Sent:
        chance = self._chance
        if self._known and chance.random() < 0.25:
            sent = chance.choice(self._known)
        else:
            kind = chance.choice(self._kinds)
            if kind == KILLER:
                self._kinds = [one for one in self._kinds if one != KILLER]
            sent = Sent(f"e{len(self._known)}", kind, 0, chance.randrange(_MINUTES))
            self._known.append(sent)
        if chance.random() < 0.04:
            self._disputed.add(sent.id)
            return Sent(sent.id, sent.kind, 1, sent.minute)
        return sent


def body_of(some: list[Sent]) -> bytes:
    """Return a request's body."""
    return msgspec.json.encode([one.body for one in some])
