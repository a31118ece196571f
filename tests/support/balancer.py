"""A balancer in front of servers: new connections go to whoever says that it is ready."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from tests.support.proxy import Proxy
from tests.support.server import request, wire_to

LOOK_S = 0.05
"""Between two looks at /api/ready; much less than a server goes on for after it said no."""

_ANSWER_S_MAX = 2.0


class Balancer:
    """Stands at `url`. `servers` are asked in order; the first one that is ready gets what is new.

    Open connections stay where they are.
    """

    def __init__(self, proxy: Proxy, servers: list[str]) -> None:
        self.servers = servers
        self.leads_to = servers[0]
        self.switches = 0
        self._proxy = proxy

    @property
    def url(self) -> str:
        """Where clients send to."""
        return self._proxy.url

    @property
    def connections(self) -> int:
        """How many connections are open through it."""
        return self._proxy.connections

    async def watch(self) -> None:
        """Look at the servers for as long as this runs."""
        while True:
            for server in list(self.servers):
                if await is_ready(server):
                    self._lead_to(server)
                    break
            await asyncio.sleep(LOOK_S)

    def _lead_to(self, server: str) -> None:
        if server != self.leads_to:
            self.leads_to = server
            self.switches += 1
            self._proxy.lead_to(server)


async def is_ready(server: str) -> bool:
    """Return whether a server answers /api/ready with 200."""
    with contextlib.suppress(OSError, EOFError, TimeoutError):
        async with asyncio.timeout(_ANSWER_S_MAX), wire_to(int(urlsplit(server).port or 0)) as wire:
            await wire.send(request(b"", method="GET", path="/api/ready", headers={}))
            return (await wire.reply()).status == 200
    return False


@contextlib.asynccontextmanager
async def balancing(*servers: str) -> AsyncIterator[Balancer]:
    """Run a balancer in front of servers."""
    proxy = Proxy(servers[0])
    listener = await proxy.listen()
    balancer = Balancer(proxy, list(servers))
    watching = asyncio.create_task(balancer.watch())
    try:
        yield balancer
        # A fault of the balancer's own would look like one of the servers'.
        assert not watching.done()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        listener.close()
        await proxy.end()
