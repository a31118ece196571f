"""A cluster of a test's own: three primaries, each with a replica, as processes on loopback.

Who holds a slot is asked of the nodes each time, and the highest epoch among those that
claim it counts: a node that was dead, or cut off, may not yet know better.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from redis.crc import key_slot

from evp.engines.engine import LOOPBACK, free_port
from evp.errors import LogUnavailable
from evp.stream.client import Argument, Link, LogRefused
from tests.support.servers import Server, program_log
from tests.support.wait import until

PRIMARIES = 3
SLOTS = 16_384
SETTLED_S_MAX = 40.0
NODE_TIMEOUT_MS = 2_000
_MIGRATE_MS = 5_000
_KEYS_AT_ONCE = 100


class Seen(NamedTuple):
    """One line of CLUSTER NODES: how a node is seen by the one that was asked."""

    id: str
    port: int
    flags: frozenset[str]
    primary: str
    epoch: int
    slots: tuple[tuple[int, int], ...]

    def holds(self, slot: int) -> bool:
        """Return True if it is a primary that serves this slot."""
        return "master" in self.flags and any(first <= slot <= last for first, last in self.slots)


async def ask(server: Server, *command: Argument) -> Any:
    """Send one command to a server as an operator does. Raises LogUnavailable."""
    async with Link.opened(server.url) as link:
        return await link.call(*command)


async def info(server: Server, section: str) -> dict[str, str]:
    """Return a section of INFO. Raises LogUnavailable."""
    text = (await ask(server, "INFO", section)).decode()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


async def has_copied(replica: Server, primary: Server) -> bool:
    """Return True once a replica has all that its primary had when this was called."""
    try:
        had = await info(primary, "replication")
        has = await info(replica, "replication")
    except LogUnavailable:
        return False
    if has["role"] != "slave" or has["master_link_status"] != "up":
        return False
    follows = int(has["master_port"]) == primary.port
    return follows and int(has["slave_repl_offset"]) >= int(had["master_repl_offset"])


class Cluster:
    """Six nodes. `nodes` stay the same, whatever becomes of their roles."""

    def __init__(self, folder: Path, *extra: str, node_timeout_ms: int = NODE_TIMEOUT_MS) -> None:
        self._bus_ports: dict[int, int] = {}
        self.nodes: list[Server] = []
        for number in range(2 * PRIMARIES):
            home = folder / f"node-{number + 1}"
            home.mkdir(parents=True)
            bus_port = free_port()
            options = {
                "cluster-enabled": "yes",
                "cluster-port": str(bus_port),
                "cluster-node-timeout": str(node_timeout_ms),
                # What one primary holds goes on while another one is away.
                "cluster-require-full-coverage": "no",
                "cluster-allow-replica-migration": "no",
                # A replica is sent what it lacks at once, instead of after five seconds.
                "repl-diskless-sync-delay": "0",
            }
            flat = [item for name, value in options.items() for item in (f"--{name}", value)]
            self.nodes.append(program_log(home, *flat, *extra))
            self._bus_ports[self.nodes[-1].port] = bus_port

    @property
    def url(self) -> str:
        """Address of the cluster: all of its nodes."""
        return self.url_of(self.nodes)

    @staticmethod
    def url_of(nodes: Sequence[Server]) -> str:
        """Return the address of the cluster that names these nodes alone."""
        return "redis+cluster://" + ",".join(f"{LOOPBACK}:{node.port}" for node in nodes)

    async def start(self) -> None:
        """Start the nodes and make a cluster of them; each primary has a replica in the end."""
        await asyncio.gather(*(asyncio.to_thread(node.start) for node in self.nodes))
        primaries, replicas = self.nodes[:PRIMARIES], self.nodes[PRIMARIES:]
        share = SLOTS / PRIMARIES
        for number, node in enumerate(self.nodes):
            await ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, node in enumerate(primaries):
            first, last = round(number * share), round((number + 1) * share) - 1
            await ask(node, "CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in self.nodes[1:]:
            meet = ("CLUSTER", "MEET", LOOPBACK, node.port, self._bus_ports[node.port])
            await ask(self.nodes[0], *meet)
        await until(self._all_met, what="all nodes know each other", within_s=SETTLED_S_MAX)
        for primary, replica in zip(primaries, replicas, strict=True):
            await ask(replica, "CLUSTER", "REPLICATE", await self.id_of(primary))
        await self.until_settled()

    def end(self) -> None:
        """Kill all nodes."""
        for node in self.nodes:
            node.kill()

    async def kill(self, node: Server) -> None:
        """End a node at once, as `kill -9` does."""
        await asyncio.to_thread(node.kill)

    async def revive(self, node: Server) -> None:
        """Start a node that was killed, with what it had."""
        await asyncio.to_thread(node.start)

    async def id_of(self, node: Server) -> str:
        """Return the name that a node has in the cluster."""
        return str((await ask(node, "CLUSTER", "MYID")).decode())

    async def seen_by(self, node: Server) -> list[Seen]:
        """Return all nodes as one of them sees them. Raises LogUnavailable."""
        text = (await ask(node, "CLUSTER", "NODES")).decode()
        return [_seen(line.split()) for line in text.splitlines()]

    async def owner(self, stream: str) -> Server:
        """Return the primary that holds the slot of a stream. Raises LookupError if none does."""
        slot = key_slot(stream.encode())
        found: tuple[int, Server] | None = None
        for node in self.nodes:
            own = await self._own_line(node)
            if own is not None and own.holds(slot) and (found is None or own.epoch > found[0]):
                found = own.epoch, node
        if found is None:
            raise LookupError(f"no node that runs holds the slot of {stream}")
        return found[1]

    async def replica_of(self, primary: Server) -> Server:
        """Return the replica of a primary. Raises LookupError if it has none."""
        name = await self.id_of(primary)
        for node in self.nodes:
            own = await self._own_line(node)
            if own is not None and own.primary == name:
                return node
        raise LookupError(f"nobody follows the node at port {primary.port}")

    async def is_settled(self) -> bool:
        """Return True if all nodes run, agree, and each primary's replica has all that it had."""
        try:
            primaries = []
            for node in self.nodes:
                state = (await ask(node, "CLUSTER", "INFO")).decode()
                own = await self._own_line(node)
                seen = await self.seen_by(node)
                bad = any({"fail", "fail?", "handshake"} & one.flags for one in seen)
                if own is None or bad or "cluster_state:ok" not in state:
                    return False
                if own.slots and "master" in own.flags:
                    primaries.append(node)
            if len(primaries) != PRIMARIES:
                return False
            pairs = [(await self.replica_of(one), one) for one in primaries]
            return all([await has_copied(*pair) for pair in pairs])
        except (LogUnavailable, LookupError):
            return False

    async def until_settled(self, within_s: float = SETTLED_S_MAX) -> None:
        """Wait until `is_settled`."""
        await until(self.is_settled, what="the cluster has settled", within_s=within_s)

    async def until_copied(self, primary: Server, within_s: float = SETTLED_S_MAX) -> None:
        """Wait until the replica of a primary has all that it had a moment ago."""

        async def copied() -> bool:
            try:
                return await has_copied(await self.replica_of(primary), primary)
            except (LogUnavailable, LookupError):
                return False

        what = f"the replica of port {primary.port} has all"
        await until(copied, what=what, within_s=within_s)

    async def until_owned(self, stream: str, node: Server, within_s: float = SETTLED_S_MAX) -> None:
        """Wait until a node holds the slot of a stream."""

        async def owns() -> bool:
            try:
                return await self.owner(stream) is node
            except LookupError:
                return False

        await until(owns, what=f"port {node.port} holds {stream}", within_s=within_s)

    async def fail_over(self, stream: str) -> tuple[Server, Server]:
        """Kill the primary of a stream once its replica has all; return it and its successor."""
        primary = await self.owner(stream)
        replica = await self.replica_of(primary)
        await self.until_copied(primary)
        await self.kill(primary)
        await self.until_owned(stream, replica)
        return primary, replica

    async def switch_over(self, stream: str) -> Server:
        """Have the replica of a stream's primary take over in good order; return it."""
        replica = await self.replica_of(await self.owner(stream))
        await ask(replica, "CLUSTER", "FAILOVER")
        await self.until_owned(stream, replica)
        return replica

    async def primaries(self) -> list[Server]:
        """Return the nodes that hold slots."""
        lines = [(node, await self._own_line(node)) for node in self.nodes]
        return [node for node, own in lines if own and own.slots and "master" in own.flags]

    async def other_primary(self, stream: str) -> Server:
        """Return a primary that does not hold the slot of a stream."""
        owner = await self.owner(stream)
        return next(node for node in await self.primaries() if node is not owner)

    async def move(self, stream: str, target: Server) -> None:
        """Move the slot of a stream to another primary, key by key, as `--cluster reshard` does."""
        slot = key_slot(stream.encode())
        source = await self.owner(stream)
        source_id, target_id = await self.id_of(source), await self.id_of(target)
        await ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        while names := await ask(source, "CLUSTER", "GETKEYSINSLOT", slot, _KEYS_AT_ONCE):
            for name in names:
                await ask(source, "MIGRATE", LOOPBACK, target.port, name, 0, _MIGRATE_MS)
        for node in (target, source):
            await ask(node, "CLUSTER", "SETSLOT", slot, "NODE", target_id)
        await self.until_owned(stream, target)

    async def move_at_once(self, stream: str, target: Server) -> bool:
        """Have the server itself move the slot, as Valkey 9 can; False if this one can't."""
        slot = key_slot(stream.encode())
        source, target_id = await self.owner(stream), await self.id_of(target)
        try:
            range_ = ("SLOTSRANGE", slot, slot, "NODE", target_id)
            await ask(source, "CLUSTER", "MIGRATESLOTS", *range_)
        except LogRefused:
            return False
        await self.until_owned(stream, target)
        return True

    async def _all_met(self) -> bool:
        for node in self.nodes:
            seen = await self.seen_by(node)
            if len(seen) != len(self.nodes) or any("handshake" in one.flags for one in seen):
                return False
        return True

    async def _own_line(self, node: Server) -> Seen | None:
        """Return how a node sees itself; None if it does not run, or is paused."""
        if not node.running:
            return None
        try:
            return next(one for one in await self.seen_by(node) if "myself" in one.flags)
        except LogUnavailable:
            return None


def _seen(words: list[str]) -> Seen:
    # A slot that is on its way to another node stands in brackets.
    ranges = [word.partition("-") for word in words[8:] if not word.startswith("[")]
    return Seen(
        id=words[0],
        port=int(words[1].partition("@")[0].rpartition(":")[2]),
        flags=frozenset(words[2].split(",")),
        primary=words[3],
        epoch=int(words[6]),
        slots=tuple((int(first), int(last or first)) for first, _, last in ranges),
    )


@contextlib.asynccontextmanager
async def running_cluster(
    folder: Path, *extra: str, node_timeout_ms: int = NODE_TIMEOUT_MS
) -> AsyncIterator[Cluster]:
    """Run a cluster; nothing is left of it at the end."""
    cluster = Cluster(folder, *extra, node_timeout_ms=node_timeout_ms)
    try:
        await cluster.start()
        yield cluster
    finally:
        await asyncio.to_thread(cluster.end)
