"""One simulated deployment: servers, workers, readers of another group, and what befalls them.

    clients ─▶ servers ─▶ log ─▶ workers ─▶ store        all of it evp's own but log and store

Processes are started, killed, paused while others take their place, and told to stop. Killed
means what kill -9 means: nothing of a process runs any longer, and none of its calls reaches
an engine, but for those that are on their way. The log fails over to an earlier state, loses
its memory or a group; the store takes no bad events until somebody mends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, cast

import bson
import msgspec
from bson.raw_bson import RawBSONDocument
from msgspec import Struct
from pymongo.errors import AutoReconnect

from evp.batch.outcome import ERASED
from evp.batch.raw import AS_IT_IS
from evp.clock import from_ms
from evp.codec import Media
from evp.errors import LogUnavailable, Refusal, StoreUnavailable
from evp.receipt import receipt_of
from evp.server.accept import Acceptor
from evp.server.answer import Answer
from evp.server.ledger import Ledgers
from evp.server.run import _wind_up
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.erasure import _KEPT, erase
from evp.storage.groups import register
from evp.storage.schema import EVENTS
from evp.stream.consumer import Consumer
from evp.stream.keys import Keys
from evp.worker.journal import Journals
from evp.worker.run import _work
from tests.simulation.book import ADMISSION, Book
from tests.simulation.events import BAD, KILLER, Client, Sent, body_of
from tests.simulation.faults import Weather
from tests.simulation.log import SimulatedLog
from tests.simulation.loop import PROCESS, Process, SimulatedLoop
from tests.simulation.machine import Machine
from tests.simulation.memory import id_of
from tests.simulation.store import SimulatedDatabase, SimulatedStore

READERS = b"readers"

_VALIDATION = {"code": 121, "errmsg": "document failed validation"}
_UNKNOWN = frozenset(("ack_unknown",))
"""Answers that leave open whether the events will be stored."""
_IN_FLIGHT = 2
_PROCESSES_MAX = 6


class Counts(Struct):
    """What happened in a schedule, to see that it was no empty one."""

    requests: int = 0
    crashes: int = 0
    pauses: int = 0
    failovers: int = 0
    flushes: int = 0
    groups_destroyed: int = 0
    late: int = 0
    erased: int = 0
    leaps: int = 0
    verified: int = 0


class Running(Struct):
    """A process that was started, and how to start the next one in its place."""

    process: Process
    start: Callable[[], None]
    main: asyncio.Task[Any]
    stop: asyncio.Event
    acceptor: Acceptor | None = None


class World:
    """All processes, both engines, and the book of what happened."""

    def __init__(
        self,
        loop: SimulatedLoop,
        machine: Machine,
        weather: Weather,
        settings: Settings,
        *,
        kinds: list[str],
        step_ms: int,
        remembers: bool,
    ) -> None:
        self.loop = loop
        self.machine = machine
        self.weather = weather
        self.chance: Random = weather.chance
        self.settings = settings
        self.counts = Counts()
        self.store = SimulatedStore(weather, self._refuses)
        group = settings.consumer_group.encode()
        self.book = Book(self.store, group)
        self.log = SimulatedLog(
            weather, machine.now_ms, self.book, step_ms=step_ms, remembers=remembers
        )
        self.book.log = self.log
        self.running: list[Running] = []
        self.mended = False
        self.client = Client(self.chance, kinds)
        self._unanswered: list[list[Sent]] = []
        self._numbers: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def db(self) -> Database:
        """A client of the store."""
        return cast("Database", SimulatedDatabase(self.store))

    @property
    def waits(self) -> bool:
        """Whether the world has something under way, such as the start of a process."""
        return bool(self._tasks)

    # Processes.

    def start_server(self) -> None:
        """Start a server process."""
        stop = asyncio.Event()
        acceptor = Acceptor(self.settings)
        self._start("server", self._serve(acceptor, stop), stop, self.start_server, acceptor)

    def start_worker(self) -> None:
        """Start a worker process."""
        stop = asyncio.Event()
        journals = Journals(self.settings.rss_log_events)
        work = _work(
            self.settings, self.db, stop, journals, _IN_FLIGHT, burst=False, take_over=False
        )
        self._start("worker", work, stop, self.start_worker)

    def start_reader(self) -> None:
        """Start a program that reads by a group of its own and stores nothing."""
        stop = asyncio.Event()
        self._start("reader", self._read(stop), stop, self.start_reader)

    def _start(
        self,
        kind: str,
        main: Coroutine[Any, Any, Any],
        stop: asyncio.Event,
        again: Callable[[], None],
        acceptor: Acceptor | None = None,
    ) -> None:
        number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
        process = self.machine.process(f"{kind}{number}")
        token = PROCESS.set(process)
        try:
            task = asyncio.create_task(main)
        finally:
            PROCESS.reset(token)
        self.weather.note(f"start {process.name}")
        self.running.append(Running(process, again, task, stop, acceptor))
        task.add_done_callback(lambda _: self._ended(process, task))

    def _ended(self, process: Process, task: asyncio.Task[Any]) -> None:
        self.running = [one for one in self.running if one.process is not process]
        if process.alive and not task.cancelled() and task.exception() is not None:
            self.book.broken("process failed", process.name, repr(task.exception()))
        process.alive = False

    def kill(self, one: Running) -> None:
        """Kill a process; its supervisor starts another one after a moment."""
        process = one.process
        if not process.alive:
            return
        self.counts.crashes += 1
        self.weather.note(f"kill {process.name}")
        process.alive = False
        self.loop.resume(process)
        for task in process.tasks:
            task.cancel()
        self.running = [other for other in self.running if other is not one]
        self._start_again(one)

    def pause(self, one: Running, pause_s: float, *, replaced: bool) -> None:
        """Let a process stand still, while another one may take its place; then it goes on."""
        process = one.process
        if process.paused:
            return
        self.counts.pauses += 1
        self.weather.note(f"pause {process.name}")
        process.paused = True
        if replaced:
            self._start_again(one)
        self._later(pause_s, lambda: self._go_on(one))

    def _go_on(self, one: Running) -> None:
        if one.process.alive and one.process.paused:
            self.weather.note(f"go on {one.process.name}")
            self.loop.resume(one.process)

    def _start_again(self, one: Running) -> None:
        self._later(self.chance.random() * 0.5, one.start)

    def _later(self, wait_s: float, act: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(wait_s)
            act()

        self.background(wait())

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside everything else."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # What the processes do.

    async def _serve(self, acceptor: Acceptor, stop: asyncio.Event) -> None:
        ledgers = Ledgers(
            self.settings, self.db, acceptor.lanes, lambda: acceptor.announcer.partitions
        )
        await acceptor.start()
        ledgers.start()
        await stop.wait()
        await _wind_up(acceptor, ledgers)
        await ledgers.stop()
        await acceptor.close()

    async def _read(self, stop: asyncio.Event) -> None:
        name = READERS.decode()
        loops = [
            self._read_one(Keys(self.settings.stream, number), name, stop)
            for number in range(self.settings.partitions)
        ]
        await asyncio.gather(*loops)

    async def _read_one(self, keys: Keys, name: str, stop: asyncio.Event) -> None:
        consumer = Consumer(
            self.settings.redis_url,
            keys,
            name,
            "r-1",
            block_ms=self.settings.read_block_ms,
            claim_idle_ms=self.settings.claim_idle_ms,
            admission=ADMISSION,
        )
        known = False
        while not stop.is_set():
            try:
                if not known:
                    await register(self.db, name)
                    await consumer.ensure_group()
                    self.book.groups.add(READERS)
                    known = True
                batch = await consumer.read(2)
                await asyncio.sleep(self.chance.random() * 0.3)
                await consumer.ack(batch)
            except (LogUnavailable, StoreUnavailable):
                known = False
                await asyncio.sleep(0.2)
        await consumer.close()

    # What befalls them.

    def submit(self) -> None:
        """Send a request to a server; one without an answer may be sent again."""
        servers = [one for one in self.running if one.acceptor and not one.process.paused]
        if not servers:
            return
        server = self.chance.choice(servers)
        acceptor, process = server.acceptor, server.process
        again = self._unanswered and self.chance.random() < 0.5
        some = self._unanswered.pop() if again else self.client.request()
        self.counts.requests += 1
        self.book.sent(some)
        if acceptor is not None:
            acceptor.accept(
                body_of(some), Media.ARRAY, lambda answer: self._answered(some, answer, process)
            )

    def _answered(self, some: list[Sent], answer: Answer, process: Process) -> None:
        if answer.status != 202:
            self.weather.note(f"refused {answer.status}")
            if answer.status == 500:
                self.book.broken("server fault", repr(answer.error))
            is_refusal = isinstance(answer.error, Refusal) and answer.error.code not in _UNKNOWN
            if is_refusal and process.alive:
                self.book.refused(some)
            self._unanswered.append(some)
            return
        receipt = receipt_of(msgspec.json.decode(answer.body)["receipt"])
        if receipt is None:
            self.book.broken("bad receipt", answer.body)
            return
        key = Keys(self.settings.stream, receipt.partition).stream.encode()
        self.book.answered(some, key, id_of(receipt.entry_id.encode()))

    def write_plain(self) -> None:
        """Let another program write an entry of its own."""
        key, sent = self.settings.stream.encode(), self.client.plain()
        self.book.sent([sent])
        self.book.answered(
            [sent], key, id_of(self.log.carry_out([b"XADD", key, b"*", *sent.fields]))
        )

    def fail_over(self) -> None:
        """Let a replica take over that lacks the last writes, and whose clock is behind."""
        self.counts.failovers += 1
        writes = self.chance.randrange(1, 10)
        self.weather.note(f"fail over, {writes} writes back")
        self.log.fail_over(writes, behind_ms=self.chance.choice((0, 0, 1_000, 5_000)))

    def flush(self) -> None:
        """Let the log lose its memory."""
        self.counts.flushes += 1
        self.weather.note("flush")
        self.log.flush()

    def destroy_group(self, name: bytes) -> None:
        """Let somebody remove a group by hand."""
        self.counts.groups_destroyed += 1
        self.weather.note(f"destroy {name.decode()}")
        self.log.destroy_group(self.settings.stream.encode(), name)

    def arrive(self) -> None:
        """Let a late call arrive."""
        if self.weather.late:
            self.counts.late += 1
            self.weather.arrive(self.chance.randrange(len(self.weather.late)))

    def leap(self, leap_s: float) -> None:
        """Let time pass in which nothing runs, as if all of it had been suspended."""
        self.counts.leaps += 1
        self.weather.note(f"leap {leap_s:.1f} s")
        self.loop.now_s += leap_s

    def erase(self) -> None:
        """Erase an event that is stored."""
        rows = self.store.table(EVENTS).values()
        left = [row.raw for row in rows if ERASED not in row.document]
        if left:
            self.counts.erased += 1
            self.background(self._erase(RawBSONDocument(self.chance.choice(left), AS_IT_IS)))

    async def _erase(self, event: RawBSONDocument) -> None:
        short = {name: event[name] for name in ("_id", *_KEPT)}
        row = RawBSONDocument(bson.encode(short), AS_IT_IS)
        with contextlib.suppress(StoreUnavailable):
            done, _ = await erase(self.db, [row], from_ms(self.machine.now_ms()))
            if done:
                self.book.erased.add(event["_id"])

    def mend(self) -> None:
        """Let the store take bad events from now on."""
        self.mended = True

    def kill_one(self) -> None:
        """Kill any process."""
        if self.running:
            self.kill(self.chance.choice(self.running))

    def pause_one(self) -> None:
        """Let any process stand still for a while, perhaps while another one takes its place."""
        running = [one for one in self.running if not one.process.paused]
        if running:
            pause_s = self.chance.choice((0.3, 3.0, 8.0)) * self.chance.random()
            replaced = len(self.running) < _PROCESSES_MAX and self.chance.random() < 0.6
            self.pause(self.chance.choice(running), pause_s, replaced=replaced)

    def _refuses(self, name: str, document: dict[str, Any]) -> dict[str, Any] | None:
        if name != EVENTS:
            return None
        if document["type"] == KILLER:
            process = PROCESS.get()
            for one in self.running:
                if one.process is process:
                    self.kill(one)
            raise AutoReconnect("whoever writes this dies")
        return _VALIDATION if document["type"] == BAD and not self.mended else None


async def until(holds: Callable[[], bool], within_s: float, look_s: float = 0.25) -> bool:
    """Wait until something holds; False if it does not in time."""
    ends_at_s = asyncio.get_running_loop().time() + within_s
    while not holds():
        if asyncio.get_running_loop().time() >= ends_at_s:
            return False
        await asyncio.sleep(look_s)
    return True
