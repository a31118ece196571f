"""The load of a fault run, a process of its own: clients that write down what they do.

    python -m tests.faults.kit.load PLAN.json

It sends until SIGTERM. Each lane is one connection that sends one request after
the other, to whichever server answers. Some lanes send a request again, with
the same ids, until it is accepted; the others never do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from bson import Binary
from msgspec import Struct
from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from tests.faults.kit.history import (
    Answer,
    Invoke,
    Log,
    Seen,
    content_digest,
    verdict_of,
)
from tests.support.server import Wire, request

ANSWER_S_MAX = 12.0
ATTEMPTS_MAX = 30
PROBES_MAX = 20
_AGAIN_S = 0.2
_PROBE_S = 0.05
_TYPE = "page_view"
NO_ANSWER = (OSError, EOFError, TimeoutError, RuntimeError, ValueError)
"""What is raised where a request gets no answer."""


class Plan(Struct):
    """What to send where.

    `events_per_s` is shared by `lanes` connections with batches; `single_lanes`
    more send single events as fast as they are answered, up to `singles_per_s`.
    """

    seed: int
    urls: list[str]
    store_url: str
    database: str
    key: str
    log_path: str
    events_per_s: float
    lanes: int = 8
    batch_events: int = 200
    single_lanes: int = 4
    singles_per_s: float = 100.0
    odd_one_in: int = 40
    """One request in so many is refused on purpose, or sends an id again with another content."""


class Made(Struct):
    """A request: its body, and the events in it as the log has them."""

    invoke: Invoke
    body: bytes
    path: str
    event_ids: list[str] = []


class Clients:
    """Everything the lanes share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.stop = asyncio.Event()
        self.log = Log(Path(plan.log_path))
        self._numbers = itertools.count(1)
        self._random = random.Random(plan.seed)
        self._probes: dict[bytes, tuple[str, float]] = {}

    async def run(self) -> None:
        """Send until `stop` is set."""
        plan = self.plan
        batch_s = plan.batch_events * plan.lanes / plan.events_per_s
        single_s = plan.single_lanes / plan.singles_per_s
        lanes = [
            Lane(self, f"b{plan.seed}.{n}", batch_s, plan.batch_events, again=n % 2 == 0)
            for n in range(plan.lanes)
        ]
        lanes += [
            Lane(self, f"s{plan.seed}.{n}", single_s, 1, again=n % 2 == 0)
            for n in range(plan.single_lanes)
        ]
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(lane.run())
            group.create_task(self._look_for_probes())
        self.log.close()

    def request_number(self) -> int:
        """Return a number that no other request has."""
        return next(self._numbers)

    def chance(self) -> float:
        """Return a number from 0 to 1."""
        return self._random.random()

    def probe(self, id_: str, event_id: str) -> None:
        """Look for an event in the store from now on, unless enough are looked for."""
        if len(self._probes) < PROBES_MAX:
            self._probes[bytes.fromhex(event_id.replace("-", ""))] = (id_, time.monotonic())

    async def _look_for_probes(self) -> None:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            self.plan.store_url, serverSelectionTimeoutMS=1000, socketTimeoutMS=2000
        )
        events = client[self.plan.database]["events"]
        while not self.stop.is_set():
            await asyncio.sleep(_PROBE_S)
            wanted = [Binary(event_id, 4) for event_id in self._probes]
            with contextlib.suppress(PyMongoError):
                for document in await events.find({"_id": {"$in": wanted}}, {"_id": 1}).to_list():
                    id_, ok_at_s = self._probes.pop(bytes(document["_id"]))
                    self.log.note(Seen(id_, ok_at_s, time.monotonic()))
        await client.close()


class Lane:
    """One connection after the other, one request after the other."""

    def __init__(
        self, clients: Clients, name: str, period_s: float, events: int, *, again: bool
    ) -> None:
        self._clients = clients
        self._name = name
        self._period_s = period_s
        self._events = events
        self._again = again
        self._next = 0
        self._time = ""
        self._wire: Wire | None = None
        urls = clients.plan.urls
        self._urls: Iterator[str] = itertools.cycle(urls[len(name) % len(urls) :] + urls)
        self._headers = {"content-type": "application/json", "x-api-key": clients.plan.key}

    async def run(self) -> None:
        """Send until told to stop."""
        due_s = time.monotonic()
        stop = self._clients.stop
        while not stop.is_set():
            due_s = max(due_s + self._period_s, time.monotonic() - 1.0)
            await self._rest(due_s - time.monotonic())
            odd = self._clients.chance() < 1 / self._clients.plan.odd_one_in
            if odd and self._events > 1:
                await self._send(self._make(refused=True))
            else:
                made = self._make()
                verdict = await self._until_accepted(made)
                if verdict == "ok" and self._events == 1:
                    if odd:
                        await self._until_accepted(self._make(first=made.invoke.first))
                    elif made.event_ids:
                        id_ = f"{self._name}-{made.invoke.first}"
                        self._clients.probe(id_, made.event_ids[0])
        await self._hang_up()

    def _make(self, *, refused: bool = False, first: int | None = None) -> Made:
        """Return a request with new events; with `first`, with the last id and another content."""
        at = self._next if first is None else first
        if first is None:
            self._next += self._events
            self._time = datetime.now(UTC).isoformat(timespec="milliseconds")
        events, digests = [], []
        for number in range(at, at + self._events):
            event = _event(self._name, number, self._time, conflicting=first is not None)
            digests.append(content_digest(_TYPE, event["subject"], event["data"]))
            events.append(event)
        if refused:
            events[-1]["time"] = "yesterday"
        body = msgspec.json.encode(events[0] if self._events == 1 else events)
        path = "/events" if self._events == 1 else "/events/batch"
        number = self._clients.request_number()
        return Made(Invoke(number, 0.0, self._name, at, b"".join(digests)), body, path)

    async def _until_accepted(self, made: Made) -> str:
        """Send a request, in lanes that do so again and again; return the last verdict."""
        verdict = await self._send(made)
        attempts = 1
        while self._again and verdict != "ok" and attempts < ATTEMPTS_MAX:
            if self._clients.stop.is_set():
                break
            await self._rest(min(2.0, _AGAIN_S * attempts))
            made.invoke.request = self._clients.request_number()
            verdict = await self._send(made)
            attempts += 1
        return verdict

    async def _send(self, made: Made) -> str:
        """Send a request once; return what its answer means."""
        made.invoke.at_s = time.monotonic()
        await self._clients.log.invoke(made.invoke)
        code = ""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                wire = await self._connected()
                await wire.send(request(made.body, path=made.path, headers=self._headers))
                reply = await wire.reply()
            status, answer = reply.status, msgspec.json.decode(reply.body)
            code = answer.get("code", "")
            if status == 202 and "event_id" in answer:
                made.event_ids = [answer["event_id"]]
            if status != 202 or reply.headers.get("connection") == "close":
                await self._hang_up()
        except NO_ANSWER:
            status = 0
            await self._hang_up()
        verdict = verdict_of(status, code)
        self._clients.log.note(
            Answer(made.invoke.request, time.monotonic(), verdict, code or str(status))
        )
        return verdict

    async def _connected(self) -> Wire:
        if self._wire is None:
            host, _, port = next(self._urls).removeprefix("http://").partition(":")
            self._wire = Wire(*await asyncio.open_connection(host, int(port)))
        return self._wire

    async def _hang_up(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.abort()

    async def _rest(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._clients.stop.wait(), max(0.0, wait_s))


def _event(prefix: str, number: int, time_: str, *, conflicting: bool) -> dict[str, Any]:
    """Return an event; one that is to conflict differs in its content alone."""
    return {
        "id": f"{prefix}-{number}",
        "type": _TYPE,
        "source": "faults",
        "subject": f"user_{number % 1000}",
        # The same on each attempt: id and time make the event.
        "time": time_,
        "data": {
            "n": number,
            "path": f"/products/{number % 97}",
            "tags": ["a", {"deep": [number, None, True]}],
            "text": "naïve ☃ " + prefix * 8,
            "share": number / 8,
            "twice": conflicting,
        },
    }


async def main(plan: Plan) -> None:
    """Send until SIGTERM or SIGINT."""
    clients = Clients(plan)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, clients.stop.set)
    sys.stdout.write(f"sending since {datetime.now(UTC):%H:%M:%S}\n")
    sys.stdout.flush()
    await clients.run()


if __name__ == "__main__":
    uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan)))
