"""The load of a soak, a process of its own that holds as much after an hour as at its start.

    python -m tests.faults.kit.soak_load PLAN.json

It sends until SIGTERM. Each lane has one connection to each server and sends one request
after the other, to the servers in turn, each again and again until it is accepted. So every
server has as many connections as the others, whatever was done to them. What an event holds
follows from its lane and number. So a request is told by one short line, once its fate is
known; nothing of it stays in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from msgspec import Struct

from evp.clock import from_ms, now_ms
from evp.http import Reply
from evp.identity import event_id
from tests.faults.kit.history import content_digest, verdict_of
from tests.faults.kit.load import ANSWER_S_MAX, NO_ANSWER
from tests.support.server import Wire, request

SOURCE = "soak"
TYPE = "page_view"
BEHIND_S_MAX = 5.0
"""What a fault held up for longer is not made up for."""
CONNECTION_REQUESTS_MAX = 50
"""After so many requests a connection is replaced, so that connections come and go."""
_AGAIN_S = 0.2
_PATH = "/events/batch"


class SoakPlan(Struct):
    """What to send where: `events_per_s` is shared by `lanes` connections."""

    urls: list[str]
    key: str
    requests_path: str
    events_per_s: float
    lanes: int = 6
    batch_events: int = 100


class Sent(Struct, array_like=True):
    """A request that is over: events `first` to `first + count - 1` of a lane, all at `time_ms`.

    The verdict is that of `history.verdict_of`: an `info` before it is none any more if the
    request was accepted later.
    """

    lane: int
    first: int
    count: int
    time_ms: int
    verdict: str

    @property
    def ids(self) -> list[bytes]:
        """The `_id` of each event."""
        numbers = range(self.first, self.first + self.count)
        return [event_id(SOURCE, name_of(self.lane, number), self.time_ms) for number in numbers]

    def digests(self) -> Iterator[tuple[bytes, bytes]]:
        """Give `_id` and digest of the content of each event."""
        for id_, number in zip(self.ids, itertools.count(self.first), strict=False):
            made = event_of(self.lane, number, "")
            yield id_, content_digest(TYPE, made["subject"], made["data"])


class Answers(Struct):
    """The last line that the load prints: how often which answer came."""

    codes: dict[str, int]


_decoder = msgspec.json.Decoder(Sent)


def requests(path: Path) -> Iterator[Sent]:
    """Give the requests that were written down, without holding them."""
    with path.open("rb") as lines:
        for line in lines:
            yield _decoder.decode(line)


def name_of(lane: int, number: int) -> str:
    """Return the `id` of an event."""
    return f"{lane}-{number}"


def event_of(lane: int, number: int, time_: str) -> dict[str, Any]:
    """Return an event; but for its time it follows from lane and number."""
    return {
        "id": name_of(lane, number),
        "type": TYPE,
        "source": SOURCE,
        "subject": f"user_{number % 1000}",
        "time": time_,
        "data": {
            "n": number,
            "path": f"/products/{number % 97}",
            "tags": ["a", {"deep": [number, None, True]}],
            "text": "naïve ☃",
            "share": number / 8,
        },
    }


class Lanes:
    """What the lanes share: where to write, what was answered, whether to stop."""

    def __init__(self, plan: SoakPlan) -> None:
        self.plan = plan
        self.stop = asyncio.Event()
        self.codes: Counter[str] = Counter()
        self._encoder = msgspec.json.Encoder()
        self._file = Path(plan.requests_path).open("ab")  # noqa: SIM115 - closed by `run`

    async def run(self) -> None:
        """Send until `stop` is set; what was begun comes to its end."""
        period_s = self.plan.batch_events * self.plan.lanes / self.plan.events_per_s
        lanes = [Lane(self, number, period_s) for number in range(self.plan.lanes)]
        with self._file:
            async with asyncio.TaskGroup() as group:
                for number, lane in enumerate(lanes):
                    group.create_task(lane.run(period_s * number / len(lanes)))

    def write(self, sent: Sent) -> None:
        """Write down a request whose fate is known."""
        self._file.write(self._encoder.encode(sent) + b"\n")


class Route:
    """To one server: one connection after the other."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._address = host, int(port)
        self._wire: Wire | None = None
        self._requests = 0

    async def ask(self, content: bytes) -> Reply:
        """Send a request and return its answer. Raises one of `NO_ANSWER`."""
        if self._requests >= CONNECTION_REQUESTS_MAX:
            self.hang_up()
        if self._wire is None:
            self._wire = Wire(*await asyncio.open_connection(*self._address))
        self._requests += 1
        await self._wire.send(content)
        return await self._wire.reply()

    def hang_up(self) -> None:
        """End the connection; the next request makes another one."""
        wire, self._wire = self._wire, None
        self._requests = 0
        if wire is not None:
            wire.abort()


class Lane:
    """One request after the other, to the servers in turn."""

    def __init__(self, lanes: Lanes, number: int, period_s: float) -> None:
        self._lanes = lanes
        self._number = number
        self._period_s = period_s
        self._next = 0
        self._routes = [Route(url) for url in lanes.plan.urls]
        self._turns = itertools.cycle(self._routes)
        self._headers = {"content-type": "application/json", "x-api-key": lanes.plan.key}

    async def run(self, after_s: float) -> None:
        """Send until told to stop, a request each period, the first one after a while."""
        due_s = time.monotonic() + after_s
        while not self._lanes.stop.is_set():
            await self._rest(due_s - time.monotonic())
            await self._send_until_accepted()
            due_s = max(due_s + self._period_s, time.monotonic() - BEHIND_S_MAX)
        for route in self._routes:
            route.hang_up()

    async def _send_until_accepted(self) -> None:
        sent = Sent(self._number, self._next, self._lanes.plan.batch_events, now_ms(), "")
        self._next += sent.count
        body = _body(sent)
        is_unsure = False
        while True:
            sent.verdict = await self._send(body)
            is_unsure |= sent.verdict == "info"
            if sent.verdict == "ok" or self._lanes.stop.is_set():
                break
            await self._rest(_AGAIN_S)
        if sent.verdict != "ok" and is_unsure:
            sent.verdict = "info"
        self._lanes.write(sent)

    async def _send(self, body: bytes) -> str:
        """Send a request once; return what its answer means."""
        status, code, route = 0, "", next(self._turns)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                reply = await route.ask(request(body, path=_PATH, headers=self._headers))
            status = reply.status
            code = msgspec.json.decode(reply.body).get("code", "")
            if status != 202 or reply.headers.get("connection") == "close":
                route.hang_up()
        except NO_ANSWER:
            route.hang_up()
        self._lanes.codes[f"{status} {code}".strip() if status else "no answer"] += 1
        return verdict_of(status, code)

    async def _rest(self, wait_s: float) -> None:
        if wait_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lanes.stop.wait(), wait_s)


def _body(sent: Sent) -> bytes:
    time_ = from_ms(sent.time_ms).isoformat(timespec="milliseconds")
    numbers = range(sent.first, sent.first + sent.count)
    return msgspec.json.encode([event_of(sent.lane, number, time_) for number in numbers])


async def main(plan: SoakPlan) -> None:
    """Send until SIGTERM or SIGINT; then tell what was answered."""
    lanes = Lanes(plan)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, lanes.stop.set)
    await lanes.run()
    sys.stdout.write(msgspec.json.encode(Answers(dict(lanes.codes))).decode() + "\n")


if __name__ == "__main__":
    uvloop.run(main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=SoakPlan)))
