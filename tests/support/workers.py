"""Workers that run in the test's loop, and where their group stands."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import msgspec
from structlog.testing import capture_logs

from evp.batch.policy import ReadSize
from evp.settings import Settings
from evp.signals import Signals
from evp.storage.client import Database
from evp.storage.isolation import Witness
from evp.storage.writer import Writer
from evp.stream.client import Link
from evp.stream.consumer import Consumer
from evp.stream.info import GroupFacts, log_facts
from evp.stream.keys import Keys
from evp.stream.scripts import APPEND
from evp.worker.carrier import Carrier
from evp.worker.journal import Journals
from evp.worker.run import work
from tests.support.make import SRV, event, open_frame
from tests.support.wait import WAIT_S_MAX, until

TROUBLE = ("warning", "error")


def changed(settings: Settings, **changes: Any) -> Settings:
    """Return settings with some changed."""
    return msgspec.structs.replace(settings, **changes)


def carrier_of(
    settings: Settings, reader: Consumer, db: Database, *, deliveries_max: int = 5
) -> Carrier:
    """Return what carries the batches of a consumer, under no lease."""

    async def killed(_incarnations: Iterable[str]) -> set[str]:
        return set()

    return Carrier(
        reader,
        Writer(db, settings.write_timeout_ms),
        Witness(f"{reader.name} token", killed),
        Journals(500).of(0),
        ReadSize(10),
        stream=settings.stream,
        claim_idle_ms=settings.claim_idle_ms,
        deliveries_max=deliveries_max,
    )


class Working:
    """A worker under way."""

    def __init__(self, settings: Settings, *, in_flight: int = 2, burst: bool = False) -> None:
        self.signals: Signals = asyncio.Queue()
        self.task = asyncio.create_task(
            work(settings, self.signals, in_flight=in_flight, burst=burst)
        )

    def tell(self) -> None:
        """Send it a signal."""
        self.signals.put_nowait(signal.SIGTERM)

    async def ended(self, within_s: float = WAIT_S_MAX) -> float:
        """Wait until it ends well; return how many seconds that took."""
        started_at_s = time.monotonic()
        async with asyncio.timeout(within_s):
            await asyncio.shield(self.task)
        return time.monotonic() - started_at_s


@contextlib.asynccontextmanager
async def working(
    settings: Settings, *, in_flight: int = 2, burst: bool = False
) -> AsyncIterator[Working]:
    """Run a worker; it is told to stop at the end, and must end well."""
    worker = Working(settings, in_flight=in_flight, burst=burst)
    test = asyncio.current_task()
    assert test is not None
    # A test must not wait for what a worker that failed will never do.
    worker.task.add_done_callback(lambda task: _pass_on(task, test))
    try:
        yield worker
        worker.tell()
        await worker.ended()
    except asyncio.CancelledError:
        if worker.task.done():
            worker.task.result()
        raise
    finally:
        worker.task.cancel()
        await asyncio.gather(worker.task, return_exceptions=True)


def _pass_on(task: asyncio.Task[None], test: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        test.cancel()


async def drain(settings: Settings, *, in_flight: int = 2, take_over: bool = False) -> None:
    """Run a worker until the stream is drained."""
    signals: Signals = asyncio.Queue()
    async with asyncio.timeout(WAIT_S_MAX):
        await work(settings, signals, in_flight=in_flight, burst=True, take_over=take_over)


async def append_at_once(settings: Settings, count: int, *, first: int = 0) -> None:
    """Append `count` frames of one event each so that no reader comes between."""
    link = await Link.open(settings.redis_url, Keys(settings.stream))
    try:
        keys = Keys(settings.stream)
        await link.call("SCRIPT", "LOAD", APPEND.text)
        append = ("EVALSHA", APPEND.digest, 3, keys.stream, keys.counters, keys.index)
        entries: list[list[bytes | str | int]] = []
        for number in range(first, first + count):
            frame = open_frame(event(number))
            fields = frame.fields(SRV, number + 1)
            entry = [item for pair in fields.items() for item in pair]
            entries.append([*append, 1, 1, frame.size_bytes, *entry])
        await link.calls([["MULTI"], *entries, ["EXEC"]])
    finally:
        await link.close()


async def group_of(settings: Settings) -> GroupFacts | None:
    """Return how the configured group stands; None if there is none."""
    link = await Link.open(settings.redis_url, Keys(settings.stream))
    try:
        facts = await log_facts(link, Keys(settings.stream))
    finally:
        await link.close()
    return next((one for one in facts.groups if one.name == settings.consumer_group), None)


async def is_drained(settings: Settings) -> bool:
    """Return True if everything was delivered and acked."""
    group = await group_of(settings)
    return group is not None and group.pending == 0 and group.lag_events == 0


async def until_drained(settings: Settings) -> None:
    """Wait until everything was delivered and acked."""
    await until(lambda: is_drained(settings), what="everything is acked")


async def until_pending(settings: Settings, count: int) -> None:
    """Wait until so many entries are delivered and not acked."""

    async def are_pending() -> bool:
        group = await group_of(settings)
        return group is not None and group.pending == count

    await until(are_pending, what=f"{count} entries are pending")


@contextlib.contextmanager
def heard() -> Iterator[list[Any]]:
    """Give the log lines that are written, each with `at_s`, when it was."""

    def stamp(_logger: object, _method: str, line: Any) -> Any:
        line["at_s"] = time.monotonic()
        return line

    with capture_logs([stamp]) as lines:
        yield lines


def of_level(lines: list[Any], *levels: str) -> list[Any]:
    """Return the lines of these levels."""
    return [line for line in lines if line["log_level"] in levels]


def gaps_s(lines: list[Any], *levels: str) -> list[float]:
    """Return the seconds between lines of these levels."""
    at_s = [line["at_s"] for line in of_level(lines, *levels)]
    return [later - earlier for earlier, later in itertools.pairwise(at_s)]


def said(lines: list[Any], text: str) -> list[Any]:
    """Return the lines with this text."""
    return [line for line in lines if line["event"] == text]
