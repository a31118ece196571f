"""A simulated log: one server, and connections to it as `evp.stream.client.Link` uses them.

The seam is `evp.stream.dial.dial`: it gives a connection of redis-py's to evp, and here a
stand-in for one, which packs nothing and takes its replies out of `memory`. So everything of
evp from `Link` upwards is the real thing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any

from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import NoScriptError, ResponseError

from tests.simulation.commands import carry_out
from tests.simulation.faults import Weather
from tests.simulation.loop import PROCESS
from tests.simulation.memory import Flat, Id, Memory, Refused, id_of
from tests.simulation.scripts import TWINS

Words = Sequence[bytes]

_SNAPSHOTS_MAX = 12
_CUT = object()
"""What stands for a reply where the connection was cut."""
_APPENDS = frozenset(("append", "XADD"))
_RECORDS = frozenset(("HSET", "retire epochs"))
_WRITES = frozenset(
    ("append", "create group", "keep", "stale", "delete consumer", "retire epochs", "trim",
     "swap lease", "raise partitions", "deliver again", "XADD", "XACK", "XCLAIM", "XREADGROUP",
     "XGROUP", "SET", "HSET"),
)  # fmt: skip


class Watcher:
    """Is told what happens in a stream; the world checks it as it happens."""

    def appended(self, key: bytes, id_: Id, flat: Flat) -> None:
        """An entry was appended."""

    def to_be_acked(self, key: bytes, group: bytes, ids: Sequence[Id]) -> None:
        """Entries are just being acknowledged."""

    def trimmed(self, key: bytes, ids: Sequence[Id]) -> None:
        """Entries were removed from the stream's beginning."""

    def lost(self, key: bytes, ids: Sequence[Id]) -> None:
        """Entries are gone with the log's memory."""


class SimulatedLog:
    """A server that forgets nothing unless it is told to.

    `step_ms` makes its clock coarse, so that ids are close together and come again after a
    failover. With `remembers` it keeps what it was like before its last writes.
    """

    def __init__(
        self,
        weather: Weather,
        now_ms: Callable[[], int],
        watcher: Watcher,
        *,
        step_ms: int = 1,
        remembers: bool = False,
    ) -> None:
        self.weather = weather
        self.epoch = 0
        self._behind_ms = 0
        self.memory = Memory(lambda: (now_ms() - self._behind_ms) // step_ms * step_ms)
        self.watcher = watcher
        self._remembers = remembers
        self._before: list[Memory] = []
        self._blocked: dict[asyncio.Future[Any], tuple[Connection, Words]] = {}
        self._loaded: set[bytes] = set()

    async def dial(self, _url: str, _stream: str | None) -> Connection:
        """Stand for `evp.stream.dial.dial`."""
        return await self.weather.call("dial", lambda: Connection(self), NotConnected, of_log=True)

    def carry_out(self, words: Words) -> Any:
        """Carry out a command or a script; an error is returned, as replies are."""
        name, twin = self.known(words)
        if name == "SCRIPT":
            self._loaded.add(sha1(words[2], usedforsecurity=False).hexdigest().encode())
            return b"OK"
        if twin is not None and words[1] not in self._loaded:
            return NoScriptError("No matching script. Please use EVAL.")
        try:
            reply = self._do(name, twin, words)
        except Refused as error:
            return ResponseError(str(error))
        if name in _WRITES and reply is not None:
            self._remember()
        if name in _APPENDS:
            self._serve()
        return reply

    def fail_over(self, writes: int, *, behind_ms: int) -> None:
        """Let a replica take over that has not seen the last writes, and whose clock is behind."""
        self._behind_ms = behind_ms
        place = max(0, len(self._before) - 1 - writes)
        self._replace(self._before[place].copy() if self._before else self.memory.copy())

    def flush(self) -> None:
        """Let the server come back with nothing in memory."""
        self._replace(Memory(self.memory.now_ms))

    def destroy_group(self, key: bytes, name: bytes) -> bool:
        """Remove a group, as somebody may by hand; True if there was one."""
        stream = self.memory.streams.get(key)
        gone = stream is not None and stream.groups.pop(name, None) is not None
        self._remember()
        self._serve()
        return gone

    async def block(self, connection: Connection, words: Words, wait_s: float) -> Any:
        """Return the reply to a read once there is something to read, None after so long."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        self._blocked[reply] = (connection, words)
        timer = loop.call_later(wait_s, _answer, reply, None)
        try:
            return await reply
        finally:
            timer.cancel()
            self._blocked.pop(reply, None)

    def _serve(self) -> None:
        """Answer those who wait for entries: also one that stands still and will find it later."""
        for reply, (connection, words) in list(self._blocked.items()):
            if connection.is_alive and not reply.done():
                found = self.carry_out(words) if connection.holds() else _CUT
                if found is not None:
                    _answer(reply, found)

    @staticmethod
    def known(words: Words) -> tuple[str, Any]:
        """Return what a command is called, and its twin if it is a script."""
        if words[0] == b"EVALSHA":
            return TWINS[words[1]]
        return words[0].decode(), None

    def _do(self, name: str, twin: Any, words: Words) -> Any:
        """Do it, and tell whoever watches."""
        if twin is None:
            key = words[1] if len(words) > 1 else b""
            if name == "XACK":
                self.watcher.to_be_acked(key, words[2], [id_of(one) for one in words[3:]])
            reply = carry_out(self.memory, words)
        else:
            count = int(words[2])
            keys, arguments = words[3 : 3 + count], words[3 + count :]
            key = keys[0]
            before = list(self._entries(key)) if name == "trim" else []
            reply = twin(self.memory, keys, arguments)
            if name == "trim":
                there = self._entries(key)
                self.watcher.trimmed(key, [id_ for id_ in before if id_ not in there])
        if name in _RECORDS:
            self._note_reached(key)
        if name in _APPENDS:
            id_ = id_of(reply)
            self.watcher.appended(key, id_, self._entries(key)[id_])
        return reply

    def _note_reached(self, key: bytes) -> None:
        """Keep how far epochs have been recorded: a record that is overwritten was one."""
        reached = self.memory.reached
        for name, value in self.memory.hash(key).items():
            reached[name] = max(reached.get(name, 0), int(value.split()[0]))

    def _entries(self, key: bytes) -> dict[Id, Flat]:
        stream = self.memory.streams.get(key)
        return {} if stream is None else stream.entries

    def _remember(self) -> None:
        if self._remembers:
            self._before.append(self.memory.copy())
            del self._before[:-_SNAPSHOTS_MAX]

    def _replace(self, memory: Memory) -> None:
        """Go on with other contents; every connection is cut."""
        old, self.memory = self.memory, memory
        self.epoch += 1
        self._loaded.clear()
        for key, stream in old.streams.items():
            there = self._entries(key)
            gone = [id_ for id_, flat in stream.entries.items() if there.get(id_) is not flat]
            self.watcher.lost(key, gone)
        self._before = [memory.copy()] if self._remembers else []
        self._serve()


def _answer(reply: asyncio.Future[Any], answer: Any) -> None:
    if not reply.done():
        reply.set_result(answer)


class Connection:
    """What stands for a connection of redis-py's: as much of it as `Link` uses."""

    host = "log.simulated"
    port = 6379

    def __init__(self, log: SimulatedLog) -> None:
        self._log = log
        self._epoch = log.epoch
        self._is_open = True
        self._process = PROCESS.get()
        self._sent: list[Words] = []
        self._replies: list[Any] = []

    @property
    def is_connected(self) -> bool:
        """False once it was closed on this side; that the other side has gone shows later."""
        return self._is_open

    def pack_command(self, *words: bytes | str | float) -> list[Words]:
        """Return a command as the server sees it."""
        return [[word if type(word) is bytes else _bytes(word) for word in words]]

    async def send_packed_command(self, packed: list[Words], check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's own
        """Take commands, which are carried out when the first reply is asked for."""
        self._sent = packed
        self._replies = []

    async def read_response(self) -> Any:
        """Return the next reply. Raises ResponseError for an error reply, and NotConnected."""
        if self._sent:
            sent, self._sent = self._sent, []
            self._replies = await self._exchange(sent)
            self._replies.reverse()
        reply = self._replies.pop()
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def disconnect(self, nowait: bool = False) -> None:  # noqa: FBT001, FBT002 - redis-py's own
        """Close it."""
        self._is_open = False

    def holds(self) -> bool:
        """Return whether the server at the other end is the one that was dialled."""
        return self._log.epoch == self._epoch

    @property
    def is_alive(self) -> bool:
        """False once whoever dialled was killed."""
        return self._process is None or self._process.alive

    async def _exchange(self, sent: list[Words]) -> list[Any]:
        names = " ".join(self._log.known(words)[0] for words in sent)
        weather = self._log.weather
        replies = await weather.call(
            names,
            lambda: [self._log.carry_out(words) for words in sent],
            NotConnected,
            of_log=True,
            holds=self.holds,
        )
        blocks_ms = _blocks_ms(sent)
        if blocks_ms and replies == [None]:
            replies = [await self._log.block(self, sent[0], blocks_ms / 1000)]
            if replies == [_CUT] or weather.loses_a_reply():
                raise NotConnected("lost while it waited")
        return replies


def _blocks_ms(sent: list[Words]) -> int:
    words = sent[0]
    return int(words[words.index(b"BLOCK") + 1]) if b"BLOCK" in words else 0


def _bytes(word: bytes | str | float) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()
