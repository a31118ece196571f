"""Connections to the log.

`Link` is one connection that is never re-dialled behind the caller's back: what
was written and what is acknowledged go over the same one, or not at all (WAITAOF
counts only its own connection's writes; entry ids may be issued again after a
failover, so an XACK belongs to the connection that read). Nothing is sent twice
by the client: evp decides about that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Self

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from evp.errors import GroupLost, LogUnavailable, redact_url
from evp.limits import LOG_COMMAND_S_MAX
from evp.log_address import Node
from evp.stream.dial import dial
from evp.stream.keys import Keys
from evp.stream.scripts import Script

Argument = bytes | str | int | float
Reply = Any

#: uvloop raises a RuntimeError when it writes to a connection that was reset while it idled.
_LOST = (RedisError, OSError, TimeoutError, RuntimeError)

#: Replies after which the server behind this connection is no longer the right one. The
#: client takes the code off a reply and makes a class of it, if it knows the code.
_WRONG_SERVER = (ReadOnlyError, MasterDownError, ClusterDownError)
_WRONG_SERVER_CODES = ("UNBLOCKED", "NOREPLICAS")

#: Replies of a cluster's node that does not hold the keys, or not all of them while they move.
_MOVED = (AskError, TryAgainError)

_LOCAL = ("127.0.0.1", "::1", "localhost")


class LogRefused(LogUnavailable):
    """Raised on an error reply: the log understood a command and did not do it.

    `number` is the place of that command among those that were sent in one go.
    """

    def __init__(self, text: str, number: int = 0) -> None:
        super().__init__(text)
        self.number = number


class LogForbids(LogRefused):
    """Raised when the user of a connection has no right to a command."""


class LogFull(LogRefused):
    """Raised when the log has no memory left for a command that needs some."""


class LogMoved(LogRefused):
    """Raised when another node of a cluster has the keys, or will have them in a moment.

    The command was not carried out, and the link is closed: dial again and send it again.
    """


def _refusal(reply: ResponseError) -> type[LogRefused]:
    if isinstance(reply, NoPermissionError):
        return LogForbids
    if isinstance(reply, OutOfMemoryError):
        return LogFull
    return LogMoved if isinstance(reply, _MOVED) else LogRefused


class Link:
    """One pinned connection. Replies are bytes, ints, lists and None, as RESP2 has them.

    Calls must not overlap. Every error but `LogRefused` and `GroupLost` closes the link for good;
    so does cancelling a call, whose reply would otherwise be read as the next one's.
    """

    def __init__(self, connection: AbstractConnection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._loaded: set[str] = set()

    @classmethod
    async def open(cls, url: str, keys: Keys | None = None) -> Self:
        """Dial the log at `url` (`evp.stream.dial`), in a cluster the node that holds `keys`.

        Raises LogUnavailable.
        """
        name = redact_url(url)
        try:
            connection = await dial(url, None if keys is None else keys.stream)
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            raise LogUnavailable(f"can't reach the log at {name}: {_text(error)}") from error
        return cls(connection, name)

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, url: str, keys: Keys | None = None) -> AsyncIterator[Self]:
        """Give a connection for a while; parameters and errors as of `open`."""
        link = await cls.open(url, keys)
        try:
            yield link
        finally:
            await link.close()

    @property
    def is_open(self) -> bool:
        """False once the link was closed, by an error or on purpose."""
        return bool(self._connection.is_connected)

    @property
    def node(self) -> Node | None:
        """The server that was dialled; None where it has no host."""
        host = getattr(self._connection, "host", None)
        return None if host is None else Node(host, getattr(self._connection, "port", 0))

    @property
    def is_local(self) -> bool:
        """True if the log is on this machine."""
        return self.node is None or self.node.host in _LOCAL

    async def call(self, *command: Argument, wait_s: float = 0.0) -> Reply:
        """Send one command and return its reply.

        `wait_s` is how long the command itself may block. Raises LogRefused on
        an error reply, GroupLost on NOGROUP, LogUnavailable when the connection
        failed: the command may then have been carried out.
        """
        return (await self.calls([command], wait_s=wait_s))[0]

    async def calls(
        self, commands: Sequence[Sequence[Argument]], *, wait_s: float = 0.0
    ) -> list[Reply]:
        """Send commands in one go and return their replies; raises as `call` does.

        All replies are read before the first error reply is raised.
        """
        if not self.is_open:
            raise LogUnavailable(f"the connection to the log at {self._name} is closed")
        connection = self._connection
        try:
            async with asyncio.timeout(LOG_COMMAND_S_MAX + wait_s):
                packed: list[bytes] = []
                for command in commands:
                    packed += connection.pack_command(*command)
                await connection.send_packed_command(packed, check_health=False)
                replies = [await self._reply() for _ in commands]
        except _LOST as error:
            await self.close()
            raise LogUnavailable(f"lost the log at {self._name}: {_text(error)}") from error
        except BaseException:
            # Cancelled: the reply is still to come, so nobody may use this connection again.
            await self.close()
            raise
        for number, reply in enumerate(replies):
            if isinstance(reply, ResponseError):
                await self._raise(reply, number)
        return replies

    async def script(
        self, script: Script, keys: Sequence[str], arguments: Iterable[Argument], /
    ) -> Reply:
        """Run a script, loading it where the server doesn't know it; raises as `call` does."""
        return (await self.script_then(script, keys, arguments))[0]

    async def script_then(
        self,
        script: Script,
        keys: Sequence[str],
        arguments: Iterable[Argument],
        *then: Sequence[Argument],
        wait_s: float = 0.0,
    ) -> list[Reply]:
        """Run a script and further commands in one go; raises as `call` does."""
        if script.digest not in self._loaded:
            await self.call("SCRIPT", "LOAD", script.text)
            self._loaded.add(script.digest)
        run = ("EVALSHA", script.digest, len(keys), *keys, *arguments)
        return await self.calls([run, *then], wait_s=wait_s)

    async def close(self) -> None:
        """Close the connection; calling it again does nothing."""
        await self._connection.disconnect(nowait=True)

    async def _reply(self) -> Reply:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error

    async def _raise(self, reply: ResponseError, number: int) -> None:
        text = str(reply)
        if text.startswith("NOGROUP"):
            raise GroupLost(text)
        if isinstance(reply, NoScriptError):
            # The scripts were flushed. Load them again on the next call.
            self._loaded.clear()
        elif isinstance(reply, (*_WRONG_SERVER, *_MOVED)) or text.startswith(_WRONG_SERVER_CODES):
            await self.close()
        kind = _refusal(reply)
        if kind is LogMoved and "+cluster://" not in self._name:
            # To dial again would lead to the same node.
            kind = LogRefused
            text = f"it is a node of a cluster, so set REDIS_URL to redis+cluster://… ({text})"
        raise kind(f"the log at {self._name} refused: {text}", number)


class KeptLink:
    """A link that is dialled when it is first asked for, and again once it was lost."""

    def __init__(self, url: str, keys: Keys | None = None) -> None:
        self._url = url
        self._keys = keys
        self._link: Link | None = None

    @property
    def is_open(self) -> bool:
        """False before the first dial, and after the link was lost or closed."""
        return self._link is not None and self._link.is_open

    @property
    def node(self) -> Node | None:
        """The server that was dialled last; None before."""
        return None if self._link is None else self._link.node

    async def get(self) -> Link:
        """Return the link; its calls must not overlap. Raises LogUnavailable."""
        if self._link is None or not self._link.is_open:
            self._link = await Link.open(self._url, self._keys)
        return self._link

    async def close(self) -> None:
        """Close the link."""
        if self._link is not None:
            await self._link.close()


def pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return names and values that a reply has one after the other."""
    return list(zip(flat[::2], flat[1::2], strict=True))


def clock_of(reply: Sequence[bytes]) -> int:
    """Return the log's time by an answer to TIME, milliseconds since 1970."""
    seconds, micros = reply
    return int(seconds) * 1000 + int(micros) // 1000


def name_of(name: bytes) -> str:
    """Return the name of a group or consumer, which any client may have given, in whatever bytes.

    Names of evp's own are UTF-8. Of others what is no UTF-8 is told as escapes: for people, and
    to compare; a command takes the bytes.
    """
    return name.decode(errors="backslashreplace")


def _text(error: BaseException) -> str:
    return redact_url(str(error)) or type(error).__name__
