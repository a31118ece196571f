"""Filling a store with frames of one event, which no load over HTTP makes fast enough.

The entries are those of a server that gets one event at a time: made by the same code,
appended by the same script. No server's ledger knows them, so `evp verify` would ask.
"""

from __future__ import annotations

import os
from typing import Any

from redis import Redis

from evp.codec import Media, decode_one
from evp.documents import Admission
from evp.frame import SRV_BYTES, OpenFrame
from evp.stream.keys import Keys
from evp.stream.scripts import APPEND
from load import drain
from systems import System

FRAMES_AT_ONCE = 1_000
FRAMES_WAITING_MAX = 100_000
BODY = (
    '{"id":"single-%d","type":"%s","source":"bench","subject":"user-%d","data":{"total":%d.5,'
    '"currency":"EUR","path":"/checkout","items":[1,2,3]}}'
)
TYPES = ("page_view", "order.created", "cart.updated", "login")
SUBJECTS = 1_000


def fill(system: System, events: int) -> None:
    """Store so many events, each in a frame of its own. Raises Failed."""
    keys = Keys(system.stream)
    where = (keys.stream, keys.counters, keys.index)
    admission = Admission("bench", time_in_id=True)
    srv = os.urandom(SRV_BYTES)
    with Redis.from_url(system.redis_url) as log:
        log.script_load(APPEND.text)
        for first in range(0, events, FRAMES_AT_ONCE):
            pipeline = log.pipeline(transaction=False)
            for number in range(first, min(events, first + FRAMES_AT_ONCE)):
                pipeline.evalsha(APPEND.digest, len(where), *where, *_entry(number, srv, admission))
            pipeline.execute()
            # So that the log never holds more than it has memory for.
            system.processes.wait(lambda: _waiting(log, system) < FRAMES_WAITING_MAX, "the workers")
        drain(system, log)


def _entry(number: int, srv: bytes, admission: Admission) -> list[Any]:
    body = BODY % (number, TYPES[number % len(TYPES)], number % SUBJECTS, number)
    frame = OpenFrame()
    decoded = decode_one(body.encode(), Media.EVENT)
    frame.join(*frame.encode(decoded, admission, batch=False))
    fields = frame.fields(srv, number + 1)
    return [1, 1, frame.size_bytes, *(item for pair in fields.items() for item in pair)]


def _waiting(log: Any, system: System) -> int:
    """Return how many entries are neither read nor acked; evp counts events, not entries."""
    groups = log.xinfo_groups(system.stream)
    return sum((group["lag"] or 0) + group["pending"] for group in groups)
