"""The bodies of requests: events that differ, made ahead as far as they can be.

A body is a template with two marks, one for the number of the request and one for
its time, since those are what is different in each. JSON text never holds control
characters, so the marks can't be met by chance. The `id` of an event is
`<process>.<request>-<place>`; with the run's `source` and the time that makes its
`_id`, so whoever knows the three can look every event up.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from time import gmtime, strftime
from typing import Any

import msgspec

from evp.identity import event_id
from evp.loadtest.limits import (
    LOADTEST_POOL_BYTES_MAX,
    LOADTEST_POOL_EVENTS_MAX,
    LOADTEST_POOL_EVENTS_MIN,
)
from evp.loadtest.plan import Shape, Share

_NUMBER, _TIME = b"\x01", b"\x02"
_TYPES = ("page_view", "click", "search", "add_to_cart", "signup", "login", "purchase", "refund")
_OWN = ("id", "time", "timestamp", "source")
_DRAWS_A_NAME = 10
_encode = msgspec.json.Encoder().encode


def source_of(run: str) -> str:
    """Return the `source` of all events of a run."""
    return f"evp-loadtest-{run}"


def id_of(process: int, number: int, place: int) -> str:
    """Return the `id` of an event by its process, request and place in it."""
    return f"{process}.{number}-{place}"


def place_of(id_: str) -> tuple[int, int, int]:
    """Return process, request and place of an `id`. Raises ValueError if it is none of a run."""
    process, rest = id_.split(".")
    number, place = rest.split("-")
    return int(process), int(number), int(place)


def stored_id(run: str, process: int, number: int, place: int, time_ms: int) -> bytes:
    """Return the `_id` of an event; `time_ms` is 0 where the deployment leaves it out."""
    return event_id(source_of(run), id_of(process, number, place), time_ms)


class Bodies:
    """Makes the bodies of one process's requests. The same number and time give the same bytes."""

    def __init__(self, share: Share) -> None:
        self._process = share.process
        self._templates = templates(share)
        self._second = -1
        self._moment = b""

    def body(self, number: int, time_ms: int) -> bytes:
        """Return the body of a request whose events all happened at `time_ms`."""
        template = self._templates[number % len(self._templates)]
        second = time_ms // 1000
        if second != self._second:
            self._second, self._moment = (
                second,
                strftime("%Y-%m-%dT%H:%M:%S", gmtime(second)).encode(),
            )
        moment = b"%b.%03dZ" % (self._moment, time_ms % 1000)
        return template.replace(_NUMBER, b"%d.%d" % (self._process, number)).replace(_TIME, moment)


def templates(share: Share) -> list[bytes]:
    """Return the bodies that take turns, with marks where they differ from turn to turn."""
    events = _given(share.lines) if share.lines else _made(share)
    source = source_of(share.run)
    found: list[bytes] = []
    size_bytes = 0
    while batch := list(islice(events, share.batch)):
        if found and len(batch) < share.batch:
            break
        texts = [_text(event, source, place) for place, event in enumerate(batch)]
        found.append(b"[%b]" % b",".join(texts) if share.batch > 1 else texts[0])
        size_bytes += len(found[-1])
        if size_bytes > LOADTEST_POOL_BYTES_MAX:
            break
    return found


def _text(event: dict[str, Any], source: str, place: int) -> bytes:
    """Return an event as JSON with its marks; its members go on where the own ones end."""
    head = b'{"id":"%b-%d","time":"%b","source":%b' % (_NUMBER, place, _TIME, _encode(source))
    return head + (b"," if event else b"") + _encode(event)[1:]


def _given(lines: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """Return the events of a file again and again; `id`, `time` and `source` are the run's."""
    events = [msgspec.json.decode(line) for line in lines]
    bare = [{name: one[name] for name in one if name not in _OWN} for one in events]
    return islice(cycle(bare), max(len(bare), LOADTEST_POOL_EVENTS_MIN))


def _made(share: Share) -> Iterator[dict[str, Any]]:
    """Return events by the shape, the same ones for the same process."""
    shape, chance = share.shape, random.Random(share.process)  # noqa: S311 - made events
    count = max(LOADTEST_POOL_EVENTS_MIN, _DRAWS_A_NAME * shape.users, 2 * share.batch)
    count = min(count, LOADTEST_POOL_EVENTS_MAX)
    types = chance.choices(range(shape.types), _weights(shape, shape.types), k=count)
    users = chance.choices(range(shape.users), _weights(shape, shape.users), k=count)
    for type_, user in zip(types, users, strict=True):
        data: dict[str, Any] = {"path": f"/p/{user % 50}", "n": user, "ok": True, "text": ""}
        data["text"] = "x" * max(0, shape.payload_bytes - len(_encode(data)))
        name = _TYPES[type_] if type_ < len(_TYPES) else f"type_{type_}"
        yield {"type": name, "subject": f"user_{user}", "data": data}


def _weights(shape: Shape, count: int) -> list[float]:
    return [1 / (rank + 1) ** shape.skew for rank in range(count)]
