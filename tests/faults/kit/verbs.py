"""Everything that is done to a system, by name: each fault begins, lasts a while, and is undone.

| verb | what happens to its target |
|---|---|
| `kill …` | kill -9, and started again after a while |
| `pause …` | SIGSTOP, SIGCONT after a while |
| `term …` | SIGTERM to all of a kind, one after the other, each started again |
| `delay`, `throttle`, `split-writes` | a connection is slow, or torn to single bytes |
| `blackhole` | bytes go nowhere, one way or both, until it is healed |
| `reset`, `half-close`, `cut-after` | connections end, at once or amid a message |
| `lose reply: …` | a command is carried out and its reply is lost |
| `partition` | groups of processes can't reach each other |
| `log …` | clients cut, scripts gone, the file rewritten, memory full, the group destroyed |
| `store …` | writes fail by code, without a majority, with the connection; a step-down |
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pymongo import AsyncMongoClient

from evp.stream.client import Link, LogRefused
from evp.stream.scripts import APPEND
from tests.faults.kit.system import STREAM, System
from tests.support.proxy import BOTH, Proxy, Way, Weather

FAULT_S_MIN = 0.5
FAULT_S_MAX = 5.0
PAUSE_S_MAX = 10.0
_STARTING_S = 5.0

SERVERS = ("server-1", "server-2")
WORKERS = ("worker-1", "worker-2", "worker-3")
WIRES = ("server>log", "worker>log", "server>store", "worker>store")

TRANSIENT_CODES = (6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436)
"""What a MongoDB answers that is passing by: nobody may give an event up for these."""
UNSURE_CODES = (64, 91)
"""Write concern errors: written, but perhaps not for long."""


@dataclass(frozen=True)
class Fault:
    """One fault of a plan: what, to whom, when, for how long."""

    verb: str
    target: str
    at_s: float
    for_s: float
    seed: int

    @property
    def dice(self) -> random.Random:
        """Return what decides the details."""
        return random.Random(self.seed)


Run = Callable[[System, Fault], Awaitable[None]]


@dataclass(frozen=True)
class Verb:
    """Whom it can be done to, and how. Only one at a time is done to a target."""

    targets: tuple[str, ...]
    run: Run
    longest_s: float = FAULT_S_MAX


async def _kill(system: System, fault: Fault) -> None:
    victim = system.victims[fault.target]
    await asyncio.to_thread(victim.kill)
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        await asyncio.shield(asyncio.to_thread(victim.start))


async def _pause(system: System, fault: Fault) -> None:
    with system.victims[fault.target].paused():
        await asyncio.sleep(fault.for_s)


async def _terminate(system: System, fault: Fault) -> None:
    for process in system.named(fault.target):
        # Killed meanwhile as well, it would be started twice.
        async with system.turns[process.name]:
            is_new = time.monotonic() - process.started_at_s < _STARTING_S
            code = await asyncio.to_thread(process.stop)
            process.start()
        # One that was started just now may not yet have asked for the signal.
        if code != 0 and not (is_new and code == -signal.SIGTERM):
            system.complaints.append(f"{process.name} ended with {code} after SIGTERM")
        await asyncio.sleep(fault.for_s / 4)


def _weather(make: Callable[[random.Random], Weather]) -> Run:
    async def run(system: System, fault: Fault) -> None:
        proxy = proxy_of(system, fault.target)
        proxy.change(make(fault.dice))
        try:
            await asyncio.sleep(fault.for_s)
        finally:
            proxy.change(Weather())

    return run


async def _reset(system: System, fault: Fault) -> None:
    proxy_of(system, fault.target).reset()


async def _half_close(system: System, fault: Fault) -> None:
    proxy_of(system, fault.target).half_close(fault.dice.choice(list(Way)))


async def _partition(system: System, fault: Fault) -> None:
    groups: tuple[set[str], set[str]] = (set(), set())
    for name in ("server", "worker", "log", "store"):
        groups[fault.dice.random() < 0.5].add(name)
    cut = system.network.partition(*groups)
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        for proxy in cut:
            proxy.change(Weather())


def _lose_reply(wire: str, command: str, holding: bytes = b"") -> Verb:
    async def run(system: System, fault: Fault) -> None:
        proxy = proxy_of(system, fault.target)
        count = fault.dice.randint(1, 3)
        proxy.drop_reply(command, count, holding=holding, hangs=fault.dice.random() < 0.3)
        await asyncio.sleep(fault.for_s)

    return Verb((wire,), run)


async def _cut_clients(system: System, fault: Fault) -> None:
    async with _log_of(system) as link:
        await link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


async def _flush_scripts(system: System, fault: Fault) -> None:
    async with _log_of(system) as link:
        await link.call("SCRIPT", "FLUSH")


async def _rewrite(system: System, fault: Fault) -> None:
    ends_at_s = asyncio.get_running_loop().time() + fault.for_s
    while asyncio.get_running_loop().time() < ends_at_s:
        async with _log_of(system) as link:
            # The last one may not be done yet.
            with contextlib.suppress(LogRefused):
                await link.call("BGREWRITEAOF")
        await asyncio.sleep(0.2)


async def _fill_memory(system: System, fault: Fault) -> None:
    async with _log_of(system) as link:
        await link.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        await asyncio.shield(_free_memory(system))


async def _free_memory(system: System) -> None:
    async with _log_of(system) as link:
        await link.call("CONFIG", "SET", "maxmemory", "0")


async def _destroy_group(system: System, fault: Fault) -> None:
    async with _log_of(system) as link:
        await link.call("XGROUP", "DESTROY", STREAM, system.group)


def _failing(data: Callable[[random.Random], dict[str, Any]]) -> Run:
    async def run(system: System, fault: Fault) -> None:
        point = {"configureFailPoint": "failCommand"}
        command = fault.dice.choice(["insert", "find", "update", "insert"])
        how = {"failCommands": [command], **data(fault.dice)}
        async with _admin_of(system) as admin:
            await admin.command(point | {"mode": {"times": fault.dice.randint(1, 20)}, "data": how})
        try:
            await asyncio.sleep(fault.for_s)
        finally:
            await asyncio.shield(_stop_failing(system))

    return run


async def _stop_failing(system: System) -> None:
    async with _admin_of(system) as admin:
        await admin.command({"configureFailPoint": "failCommand", "mode": "off"})


async def _step_down(system: System, fault: Fault) -> None:
    async with _admin_of(system) as admin:
        await admin.command({"replSetStepDown": max(1, round(fault.for_s)), "force": True})
    await asyncio.sleep(fault.for_s)


async def calm(system: System) -> None:
    """Undo what a fault could not undo because another one was in its way."""
    await _free_memory(system)
    await _stop_failing(system)


def proxy_of(system: System, wire: str) -> Proxy:
    """Return the proxy of a wire, as `worker>log`."""
    asks, _, asked = wire.partition(">")
    return system.network.proxies[asks, asked]


@contextlib.asynccontextmanager
async def _log_of(system: System) -> AsyncIterator[Link]:
    """Give a connection to the log, not through a proxy. Raises LogUnavailable."""
    link = await Link.open(system.log.url)
    try:
        yield link
    finally:
        await link.close()


@contextlib.asynccontextmanager
async def _admin_of(system: System) -> AsyncIterator[Any]:
    """Give the store's admin database, not through a proxy. Raises PyMongoError."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        system.store.url, serverSelectionTimeoutMS=2000, socketTimeoutMS=3000
    )
    try:
        yield client.admin
    finally:
        await client.close()


VERBS: dict[str, Verb] = {
    "kill server": Verb(SERVERS, _kill),
    "kill worker": Verb(WORKERS, _kill),
    "kill log": Verb(("log",), _kill),
    "kill store": Verb(("store",), _kill),
    "pause server": Verb(SERVERS, _pause, PAUSE_S_MAX),
    "pause worker": Verb(WORKERS, _pause, PAUSE_S_MAX),
    "pause log": Verb(("log",), _pause, PAUSE_S_MAX),
    "pause store": Verb(("store",), _pause, PAUSE_S_MAX),
    "term servers": Verb(("server",), _terminate),
    "term workers": Verb(("worker",), _terminate),
    "delay": Verb(
        WIRES,
        _weather(
            lambda dice: Weather(delay_ms=dice.uniform(5, 200), jitter_ms=dice.uniform(0, 50))
        ),
    ),
    "throttle": Verb(
        WIRES, _weather(lambda dice: Weather(bytes_per_s=dice.randint(50_000, 2_000_000)))
    ),
    "split-writes": Verb(WIRES, _weather(lambda _: Weather(split_writes=True))),
    "blackhole": Verb(
        WIRES,
        _weather(
            lambda dice: Weather(
                swallowing=dice.choice([BOTH, frozenset({Way.UP}), frozenset({Way.DOWN})])
            )
        ),
    ),
    "cut-after": Verb(
        WIRES, _weather(lambda dice: Weather(cut_after_bytes=dice.randint(100, 200_000)))
    ),
    "reset": Verb(WIRES, _reset),
    "half-close": Verb(WIRES, _half_close),
    "partition": Verb(("network",), _partition),
    "lose reply: append": _lose_reply("server>log", f"EVALSHA {APPEND.digest}"),
    "lose reply: read": _lose_reply("worker>log", "XREADGROUP", b"docs"),
    "lose reply: ack": _lose_reply("worker>log", "XACK"),
    "lose reply: claim": _lose_reply("worker>log", "XCLAIM|XAUTOCLAIM"),
    "lose reply: any script": _lose_reply("worker>log", "EVALSHA .*"),
    "lose reply: headers": _lose_reply("worker>store", "insert frames"),
    "lose reply: events": _lose_reply("worker>store", "insert events"),
    "lose reply: outcomes": _lose_reply("worker>store", "insert outcomes"),
    "lose reply: update": _lose_reply("worker>store", "update .*"),
    "log cuts clients": Verb(("log settings",), _cut_clients),
    "log forgets scripts": Verb(("log settings",), _flush_scripts),
    "log rewrites": Verb(("log settings",), _rewrite),
    "log is full": Verb(("log settings",), _fill_memory),
    "log loses group": Verb(("log settings",), _destroy_group),
    "store fails": Verb(
        ("store settings",),
        _failing(lambda dice: {"errorCode": dice.choice(TRANSIENT_CODES)}),
    ),
    "store is unsure": Verb(
        ("store settings",),
        _failing(
            lambda dice: {
                "writeConcernError": {"code": dice.choice(UNSURE_CODES), "errmsg": "made up"}
            }
        ),
    ),
    "store hangs up": Verb(("store settings",), _failing(lambda _: {"closeConnection": True})),
    "store steps down": Verb(("store settings",), _step_down),
}
