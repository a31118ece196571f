"""The simulated log answers as a real one does: the same things are done to both.

What differs by nature is put aside: moments, and the ids of entries, which are compared by
their order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest

from evp.errors import LogUnavailable
from evp.stream import portions, scripts
from evp.stream.client import Link
from evp.stream.header_scripts import CARRIERS, DELIVER_AGAIN, HEADERS
from evp.stream.keys import Keys
from tests.simulation.commands import COMMANDS
from tests.simulation.faults import Chances, Weather
from tests.simulation.log import Connection, SimulatedLog, Watcher, Words
from tests.simulation.scripts import TWINS

_GROUPS = ("g", "h")
_CONSUMERS = ("c-1", "c-2")
_LONG_MS = 3_600_000
_STEPS = 120
_OF_THE_SERVER = {"COMMAND", "CONFIG", "INFO", "ROLE", "TIME", "WAITAOF"}
"""Commands that tell of the server, not of what it keeps: each server answers otherwise."""


class Both:
    """A real log and a simulated one, and what was done to them."""

    def __init__(self, real: Link, simulated: Link, keys: Keys, chance: Random) -> None:
        self.links = (real, simulated)
        self.keys = keys
        self.chance = chance
        self.entries: list[tuple[bytes, bytes]] = []
        """The ids of the entries so far: the real log's, and the simulated one's."""

    async def ask(self, ask: Callable[[Link, int], Any]) -> list[Any]:
        """Ask both; return what they answer, ids as numbers and moments left out."""
        answers: list[Any] = []
        for side, link in enumerate(self.links):
            try:
                answers.append(await ask(link, side))
            except LogUnavailable as error:
                answers.append(type(error).__name__)
        return answers

    async def agree(self, what: str, ask: Callable[[Link, int], Any]) -> None:
        """Fail unless both answer alike."""
        real, simulated = await self.ask(ask)
        assert self._told(simulated, 1) == self._told(real, 0), what

    def some(self) -> list[int]:
        """Return places of some entries."""
        most = min(len(self.entries), 4)
        return sorted(self.chance.sample(range(len(self.entries)), self.chance.randint(0, most)))

    def id_at(self, place: int | None, side: int) -> bytes:
        """Return the id of an entry on one side; None stands for the beginning."""
        return b"0-0" if place is None else self.entries[place][side]

    def _told(self, answer: Any, side: int) -> Any:
        if isinstance(answer, list | tuple):
            return [self._told(one, side) for one in answer]
        if isinstance(answer, bytes):
            for number, ids in enumerate(self.entries):
                if answer == ids[side]:
                    return f"entry {number}"
        return answer


class Act:
    """What may be done next; each draws its own arguments, the same for both sides."""

    def __init__(self, both: Both) -> None:
        self._both = both
        self._chance = both.chance
        keys = both.keys
        self._reading = (keys.stream, keys.index, keys.counters)
        self._stream = keys.stream

    def _group(self) -> str:
        return self._chance.choice(_GROUPS)

    def _consumer(self) -> str:
        return self._chance.choice(_CONSUMERS)

    def _place(self) -> int | None:
        places = range(len(self._both.entries))
        place: int | None = self._chance.choice([None, *places])
        return place

    async def append(self) -> None:
        """A frame is appended, and counted."""
        both, keys, chance = self._both, self._both.keys, self._chance
        count, size = chance.randint(1, 5), chance.randint(1, 300)
        fields = (b"id", b"i" * 12, b"srv", b"s" * 8, b"seq", 1, b"n", count, b"docs", b"x" * size)
        names = (keys.stream, keys.counters, keys.index)
        ids = await both.ask(
            lambda link, _: link.script(scripts.APPEND, names, (count, 1, size, *fields))
        )
        both.entries.append((ids[0], ids[1]))

    async def append_plain(self) -> None:
        """Another program's entry is appended."""
        ids = await self._both.ask(
            lambda link, _: link.call("XADD", self._stream, "*", "type", "t")
        )
        self._both.entries.append((ids[0], ids[1]))

    async def make_group(self) -> None:
        """A group is made."""
        keys, group = self._both.keys, self._group()
        await self._both.agree(
            "create group",
            lambda link, _: link.script(scripts.CREATE_GROUP, (keys.stream, keys.groups), (group,)),
        )

    async def destroy_group(self) -> None:
        """A group is destroyed."""
        if self._chance.random() < 0.2:
            group = self._group()
            await self._both.agree(
                "destroy", lambda link, _: link.call("XGROUP", "DESTROY", self._stream, group)
            )

    async def read(self) -> None:
        """New entries are read, or own pending ones."""
        group, consumer, most = self._group(), self._consumer(), self._chance.randint(1, 3)
        place, is_new = self._place(), self._chance.random() < 0.7
        words = ("XREADGROUP", "GROUP", group, consumer, "COUNT", most, "STREAMS", self._stream)
        await self._both.agree(
            "read",
            lambda link, side: link.call(*words, ">" if is_new else self._both.id_at(place, side)),
        )

    async def ack(self) -> None:
        """Entries are acked."""
        group, places = self._group(), [*self._both.some(), 0]
        if self._both.entries:
            await self._both.agree(
                "ack",
                lambda link, side: link.call("XACK", self._stream, group, *self._ids(places, side)),
            )

    async def keep(self) -> None:
        """Claims are renewed."""
        group, consumer, places = self._group(), self._consumer(), self._both.some()
        await self._both.agree(
            "keep",
            lambda link, side: link.script(
                scripts.KEEP, (self._stream,), (group, consumer, *self._ids(places, side))
            ),
        )

    async def give_back(self) -> None:
        """Entries are given back."""
        group, consumer, places = self._group(), self._consumer(), [*self._both.some(), 0]
        if self._both.entries:
            head = ("XCLAIM", self._stream, group, consumer, 0)
            await self._both.agree(
                "give back",
                lambda link, side: link.call(
                    *head, *self._ids(places, side), "IDLE", _LONG_MS, "JUSTID"
                ),
            )

    async def look_at_own(self) -> None:
        """A consumer asks what is pending under its name."""
        arguments = (self._group(), self._consumer(), self._chance.randint(1, 4))
        size, place = self._chance.choice((10, 400, 10_000)), self._place()
        await self._both.agree(
            "own",
            lambda link, side: link.script(
                portions._OWN, self._reading, (*arguments, size, self._both.id_at(place, side))
            ),
        )

    async def take_stale(self) -> None:
        """A consumer takes what others have left."""
        arguments = (self._group(), self._consumer(), self._chance.randint(1, 4))
        size, place = self._chance.choice((10, 400, 10_000)), self._place()
        idle_ms = self._chance.choice((0, _LONG_MS // 2))
        await self._both.agree(
            "stale",
            lambda link, side: link.script(
                portions._STALE,
                self._reading,
                (*arguments, size, self._both.id_at(place, side), idle_ms),
            ),
        )

    async def ask_what_fits(self) -> None:
        """A consumer asks how many entries it may read."""
        arguments = (self._group(), self._chance.randint(1, 4), self._chance.choice((10, 400)))
        await self._both.agree(
            "fitting", lambda link, _: link.script(portions._FITTING, self._reading, arguments)
        )

    async def trim(self) -> None:
        """What every group has done is removed."""
        keys, chance = self._both.keys, self._chance
        names = (keys.stream, keys.groups, keys.counters, keys.index)
        limits = (chance.choice((0, _LONG_MS)), chance.choice((0, 300, 10**6)))
        room, more = chance.choice(("", -1, 200)), chance.choice(((), ("g",)))
        await self._both.agree(
            "trim",
            lambda link, _: self._without_now(
                2, link.script(scripts.TRIM, names, (*limits, room, 10_000, *more))
            ),
        )

    async def look_at_backlog(self) -> None:
        """A server looks what waits."""
        keys = self._both.keys
        names = (keys.stream, keys.groups, keys.counters, keys.index, keys.serving)
        server, alive_ms = self._consumer(), self._chance.choice((0, _LONG_MS))
        await self._both.agree(
            "backlog",
            lambda link, _: self._without_now(
                1, link.script(scripts.BACKLOG, names, (server, alive_ms))
            ),
        )

    async def read_headers(self) -> None:
        """A verification reads headers, and one frame's carriers."""
        keys, group, most, place = (
            self._both.keys,
            self._group(),
            self._chance.randint(1, 5),
            self._place(),
        )
        names = (keys.stream, keys.index)

        def after(side: int) -> bytes:
            return b"-" if place is None else b"(" + self._both.id_at(place, side)

        await self._both.agree(
            "headers",
            lambda link, side: link.script(HEADERS, names, (after(side), "+", most, 10**6, group)),
        )
        await self._both.agree(
            "carriers",
            lambda link, side: link.script(
                CARRIERS, (keys.stream,), (self._both.id_at(place, side), 200)
            ),
        )

    async def deliver_again(self) -> None:
        """What was acked is delivered once more."""
        head, places = (self._group(), "nobody", _LONG_MS), self._both.some()
        await self._both.agree(
            "deliver again",
            lambda link, side: link.script(
                DELIVER_AGAIN,
                (self._stream,),
                (*head, *self._ids(places, side)),
            ),
        )

    async def look_at_groups(self) -> None:
        """Groups, consumers and what is pending are looked at."""
        group = self._group()
        await self._both.agree("groups", lambda link, _: self._groups(link))
        await self._both.agree("consumers", lambda link, _: self._consumers(link, group))
        await self._both.agree("pending", lambda link, _: self._pending(link, group))

    async def remove_consumer(self) -> None:
        """A consumer that owns nothing is removed."""
        keys, group, name = self._both.keys, self._group(), self._consumer()
        lease = keys.slot(group, name)
        await self._both.agree(
            "delete consumer",
            lambda link, _: link.script(
                scripts.DELETE_CONSUMER, (keys.stream, lease), (group, name, 0)
            ),
        )

    async def lease(self) -> None:
        """A lease is taken, swapped, given up."""
        key, chance = self._both.keys.slot("g", self._consumer()), self._chance
        if chance.random() < 0.5:
            await self._both.agree(
                "set", lambda link, _: link.call("SET", key, "me", "NX", "PX", _LONG_MS)
            )
        arguments = (chance.choice(("me", "you")), "me", chance.choice((0, _LONG_MS)))
        await self._both.agree(
            "swap", lambda link, _: link.script(scripts.SWAP_LEASE, (key,), arguments)
        )
        await self._both.agree("get", lambda link, _: link.calls([("GET", key), ("EXISTS", key)]))

    async def record(self) -> None:
        """Epochs are recorded, and marked as over."""
        keys, chance = self._both.keys, self._chance
        name, seq, unknown = chance.choice(("a", "b")), chance.randint(0, 2), chance.randint(0, 1)
        if chance.random() < 0.5:
            await self._both.agree(
                "record",
                lambda link, _: link.call("HSET", keys.servers, name, f"{seq} 5 {unknown}"),
            )
            await self._both.agree("one", lambda link, _: link.call("HGET", keys.servers, name))
        else:
            arguments = (_LONG_MS, 100, name, seq, 5, unknown)
            await self._both.agree(
                "retire",
                lambda link, _: link.script(scripts.RETIRE_EPOCHS, (keys.servers,), arguments),
            )
        await self._both.agree("records", lambda link, _: self._records(link))

    async def raise_partitions(self) -> None:
        """More partitions are asked for, or fewer."""
        key, count = self._both.keys.partitions, self._chance.randint(1, 4)
        await self._both.agree(
            "raise partitions",
            lambda link, _: link.script(scripts.RAISE_PARTITIONS, (key,), (count,)),
        )

    async def probe(self) -> None:
        """A server asks which commands there are."""
        keys = (self._both.keys.probe,)
        await self._both.agree("probe", lambda link, _: link.script(scripts.PROBE, keys, ()))

    async def look_at_names(self) -> None:
        """The names of registered groups are read, and one may be taken out."""
        key, group = self._both.keys.groups, self._group()
        if self._chance.random() < 0.5:
            await self._both.agree("forget", lambda link, _: link.call("SREM", key, group))
        await self._both.agree("names", lambda link, _: self._sorted(link.call("SMEMBERS", key)))

    async def look_at_entries(self) -> None:
        """Entries from one on are read; one record is."""
        keys, place, most = self._both.keys, self._place(), self._chance.randint(1, 5)
        await self._both.agree(
            "range",
            lambda link, side: link.call(
                "XRANGE", keys.stream, self._both.id_at(place, side), "+", "COUNT", most
            ),
        )

    def _ids(self, places: Sequence[int], side: int) -> list[bytes]:
        return [self._both.id_at(place, side) for place in places]

    @staticmethod
    async def _sorted(answer: Any) -> list[Any]:
        return sorted(await answer)

    @staticmethod
    async def _without_now(place: int, answer: Any) -> list[Any]:
        told = list(await answer)
        del told[place]
        return told

    async def _groups(self, link: Link) -> Any:
        rows = await link.call("XINFO", "GROUPS", self._stream)
        found = [dict(zip(row[::2], row[1::2], strict=True)) for row in rows]
        wanted = (b"name", b"consumers", b"pending", b"last-delivered-id")
        return [[row[name] for name in wanted] for row in found]

    async def _consumers(self, link: Link, group: str) -> Any:
        rows = await link.call("XINFO", "CONSUMERS", self._stream, group)
        return [row[:4] for row in rows]

    async def _pending(self, link: Link, group: str) -> Any:
        rows = await link.call("XPENDING", self._stream, group, "-", "+", 100)
        return [[id_, consumer, idle > _LONG_MS // 2, times] for id_, consumer, idle, times in rows]

    async def _records(self, link: Link) -> Any:
        flat = await link.call("HGETALL", self._both.keys.servers)
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        # The fourth word is a moment.
        return sorted(
            [name, value.split()[:3], len(value.split())] for name, value in found.items()
        )


@pytest.mark.parametrize("seed", range(9))
async def test_a_simulated_log_answers_as_a_real_one(link: Link, keys: Keys, seed: int) -> None:
    """Whatever is done to both, in whatever order, both give the same answers."""
    await _do_to_both(link, keys, seed)


async def test_each_command_is_put_to_both(
    link: Link, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No twin, and no command of what is kept, goes without being held against a real log's."""
    asked = set()
    known = SimulatedLog.known

    def noted(words: Words) -> tuple[str, Any]:
        name, twin = known(words)
        asked.add(name)
        return name, twin

    monkeypatch.setattr(SimulatedLog, "known", staticmethod(noted))
    await _do_to_both(link, keys, seed=9)
    every = {name for name, _ in TWINS.values()} | {name.decode() for name in COMMANDS}
    assert every - asked == _OF_THE_SERVER


async def _do_to_both(link: Link, keys: Keys, seed: int) -> None:
    """Do things to both, drawn from a seed; fail where they differ."""
    chance = Random(seed)
    weather = Weather(chance, Chances(), lambda _: None)
    weather.calm = True
    log = SimulatedLog(weather, lambda: time.time_ns() // 1_000_000, Watcher())
    simulated = Link(Connection(log), "simulated")  # type: ignore[arg-type]
    act = Act(Both(link, simulated, keys, chance))
    await act.append()
    acts = [getattr(act, name) for name in dir(act) if not name.startswith("_")]
    for _ in range(_STEPS):
        await chance.choice([*acts, act.append, act.make_group, act.read, act.read])()
