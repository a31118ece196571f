"""The system under test with its log on a cluster: one stream or more, spread over the nodes.

Servers and workers reach the nodes directly, as the cluster tells their addresses.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from evp.stream.client import Link
from evp.stream.info import LogFacts, log_facts
from evp.stream.keys import Keys
from tests.faults.kit.system import STREAM, System, environ_of
from tests.support.cluster import NODE_TIMEOUT_MS, Cluster, running_cluster
from tests.support.proxy import Network
from tests.support.servers import Server, own_store


class OnCluster(System):
    """A system with `partitions` streams on a cluster."""

    def __init__(
        self,
        folder: Path,
        cluster: Cluster,
        store: Server,
        environ: dict[str, str],
        partitions: int,
    ) -> None:
        super().__init__(folder, cluster.nodes[0], store, Network({}), environ)
        # The cluster's nodes are its own to start and end.
        del self.victims["log"]
        self.cluster = cluster
        self.streams = [Keys(STREAM, number).stream for number in range(partitions)]

    async def facts(self) -> LogFacts:
        """Return the facts of all streams together. Raises LogUnavailable."""
        total = LogFacts(0, 0, 0, 0, 0, 0, [], 0)
        for number in range(len(self.streams)):
            keys = Keys(STREAM, number)
            async with Link.opened(self.cluster.url, keys) as link:
                one = await log_facts(link, keys)
            total.length += one.length
            total.size_bytes += one.size_bytes
            total.events_accepted += one.events_accepted
            total.frames_accepted += one.frames_accepted
            total.groups += one.groups
        return total

    async def is_drained(self) -> bool:
        """Return True if of each stream everything was delivered and acked."""
        groups = (await self.facts()).groups
        waits = any(one.pending or one.lag_events for one in groups)
        return len(groups) == len(self.streams) and not waits


@contextlib.asynccontextmanager
async def running_on_cluster(
    folder: Path,
    *,
    servers: int,
    workers: int,
    partitions: int,
    node_timeout_ms: int = NODE_TIMEOUT_MS,
    **settings: str,
) -> AsyncIterator[OnCluster]:
    """Run a system on a cluster, in a folder; nothing is left at the end."""
    store = await asyncio.to_thread(own_store, folder)
    async with running_cluster(folder, node_timeout_ms=node_timeout_ms) as cluster:
        settings |= {"EVP_PARTITIONS": str(partitions)}
        environ = environ_of(cluster.url, store.url, folder, **settings)
        system = OnCluster(folder, cluster, store, environ, partitions)
        try:
            await asyncio.to_thread(store.start)
            system.add_all(servers, workers)
            yield system
        finally:
            await asyncio.to_thread(system.end)
