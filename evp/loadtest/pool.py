"""The connections of one generator process, kept open whatever the server does."""

from __future__ import annotations

import asyncio
import resource
import ssl
from collections.abc import Callable

from evp.clock import monotonic_s
from evp.errors import EngineFailed, ServerUnavailable
from evp.http import authority
from evp.limits import HTTP_ANSWER_S_MAX, HTTP_CONNECT_S_MAX
from evp.loadtest.connection import Connection, Replied
from evp.loadtest.limits import LOADTEST_FILES_KEPT, LOADTEST_RECONNECT_S
from evp.loadtest.plan import Share
from evp.signals import end


class Pool:
    """Dials again what is lost; `idle` are those that wait for a request, told by `freed`."""

    def __init__(self, share: Share, replied: Replied, freed: Callable[[], None]) -> None:
        self.idle: list[Connection] = []
        self._share = share
        self._replied = replied
        self._freed = freed
        self._tls = ssl.create_default_context() if share.tls else None
        self._open: set[Connection] = set()
        self._holding: list[asyncio.Task[None]] = []

    @property
    def is_waiting(self) -> bool:
        """Whether any request is under way."""
        return any(one.request is not None for one in self._open)

    async def connect(self) -> None:
        """Open all connections.

        Raises ServerUnavailable if there is no server, EngineFailed if it may not open so many.
        """
        _allow_files(self._share.connections + LOADTEST_FILES_KEPT)
        first = await self._dial()
        others = range(self._share.connections - 1)
        dials = await asyncio.gather(*(self._dial() for _ in others), return_exceptions=True)
        for found in (first, *dials):
            connection = found if isinstance(found, Connection) else None
            self._holding.append(asyncio.create_task(self._hold(connection)))

    async def close(self) -> None:
        """End all connections; whatever is under way stays without a reply."""
        await end(*self._holding)
        for connection in self._open:
            connection.request = None
            connection.abort()

    def end_silent(self, now_s: float) -> None:
        """End connections whose server has not answered for too long."""
        for connection in list(self._open):
            waits = connection.request is not None
            if waits and now_s - connection.sent_at_s > HTTP_ANSWER_S_MAX:
                connection.abort()

    async def _hold(self, connection: Connection | None) -> None:
        """Keep one connection open."""
        while True:
            if connection is None:
                connection = await self._dial_again()
            if connection.is_open:
                self._open.add(connection)
                self.idle.append(connection)
                self._freed()
                await connection.closed
                self._open.discard(connection)
                if connection in self.idle:
                    self.idle.remove(connection)
            if not connection.has_served:
                # Whoever hangs up before it answers is not asked again at once.
                await asyncio.sleep(LOADTEST_RECONNECT_S)
            connection = None

    async def _dial_again(self) -> Connection:
        while True:
            started_at_s = monotonic_s()
            try:
                return await self._dial()
            except ServerUnavailable:
                await asyncio.sleep(started_at_s + LOADTEST_RECONNECT_S - monotonic_s())

    async def _dial(self) -> Connection:
        share = self._share
        try:
            async with asyncio.timeout(HTTP_CONNECT_S_MAX):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._replied), share.host, share.port, ssl=self._tls
                )
        except (OSError, TimeoutError, UnicodeError) as error:  # A host may be no name at all.
            raise ServerUnavailable(
                f"no answer from evp at {authority(share.host, share.port)} "
                f"({str(error) or type(error).__name__}); is it running? "
                "`evp up` starts it, --url names another one"
            ) from error
        return connection


def _allow_files(count: int) -> None:
    """Let this process open so many files. Raises EngineFailed."""
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now >= count or now == resource.RLIM_INFINITY:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, most))
    except (ValueError, OSError) as error:
        raise EngineFailed(
            f"a load generator may open {now} files, {count} are needed: raise `ulimit -n`, "
            "or give fewer --connections or more --processes"
        ) from error
