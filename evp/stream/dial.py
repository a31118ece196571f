"""Which server of the log is dialled.

| address | what is dialled |
|---|---|
| `redis://host:port/db`, `rediss://…` with TLS | that server |
| `redis+cluster://host:port,host:port`, `rediss+cluster://…` | of a Redis or Valkey Cluster the primary that holds the stream's slot, as one of its nodes tells it (CLUSTER SLOTS) |
| `redis+sentinel://host:port,host:port/service/db`, `rediss+sentinel://…` | the primary of a service, as one of its Sentinels tells it (SENTINEL GET-MASTER-ADDR-BY-NAME), once it says itself that it is one (ROLE) |

User and password hold for all servers; those of Sentinels, if they have any, are
`sentinel_username` and `sentinel_password` after a `?`. What redis-py knows of TLS
(`ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs`) may stand there too.

Whoever answers may be wrong by now. Nothing is lost by it: a node that does not hold
the slot says so (MOVED), a replica takes no writes, and what is acknowledged by a
primary that has been cut off is what `EVP_DURABILITY_REPLICAS` is for.
"""  # noqa: E501 - a table's row is one line

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisError

from evp.clock import monotonic_s
from evp.limits import LOG_ASK_S_MAX, LOG_AVOID_S, LOG_COMMAND_S_MAX, LOG_CONNECT_S_MAX
from evp.log_address import Address, Node, parse

_PRIMARY = b"master"
#: What another node or another server may answer better.
_FAILED = (RedisError, OSError, TimeoutError)


async def dial(url: str, stream: str | None) -> AbstractConnection:
    """Return a connection to the server that has `stream`; of a single server it may be None.

    Takes LOG_COMMAND_S_MAX at most. Raises RedisError, OSError, TimeoutError, ValueError.
    """
    address = parse(url)
    async with asyncio.timeout(LOG_COMMAND_S_MAX):
        if address.kind == "cluster":
            if stream is None:
                raise ValueError("in a cluster there is no server for everything")
            return await _holder_of(address, url, stream)
        if address.kind == "sentinel":
            return await _primary_of(address)
        return await _connect(url)


async def _connect(url: str) -> AbstractConnection:
    pool = ConnectionPool.from_url(
        url,
        protocol=2,
        socket_timeout=None,
        socket_connect_timeout=LOG_CONNECT_S_MAX,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,
    )
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        # Cancelled between the dial and the greeting, it would stay open.
        await connection.disconnect(nowait=True)
        raise
    return connection


#: What clusters told of their nodes last, by address: those that it names may be gone by now.
_nodes_seen: dict[str, tuple[Node, ...]] = {}

#: Nodes and Sentinels that did not answer lately; until then the others are asked first.
_avoided_until_s: dict[Node, float] = {}


def _best_first(nodes: Iterable[Node]) -> list[Node]:
    now_s = monotonic_s()
    return sorted(dict.fromkeys(nodes), key=lambda node: _avoided_until_s.get(node, now_s) > now_s)


async def _holder_of(address: Address, url: str, stream: str) -> AbstractConnection:
    """Return a connection to the node that holds the slot of `stream`."""
    slot = key_slot(stream.encode())
    failed: Exception | None = None
    for node in _best_first((*_nodes_seen.get(url, ()), *address.nodes)):
        try:
            told = await _ask(node, address.of(node), "CLUSTER", "SLOTS")
        except _FAILED as error:
            failed = error
            continue
        holder, primaries = None, []
        for first, last, primary, *_replicas in told:
            # An empty name stands for the one that was asked.
            found = Node((primary[0] or b"").decode() or node.host, primary[1])
            primaries.append(found)
            if first <= slot <= last:
                holder = found
        # Next time another one is asked first: this one may know less than the others.
        others = dict.fromkeys((*primaries, *address.nodes))
        _nodes_seen[url] = (*(one for one in others if one != node), node)
        if holder is not None:
            return await _connect(address.of(holder))
        failed = NotConnected(f"no node of the cluster holds slot {slot}")
    raise failed or NotConnected("the cluster has no node")


async def _primary_of(address: Address) -> AbstractConnection:
    """Return a connection to the primary of a service."""
    failed: Exception | None = None
    for sentinel in _best_first(address.nodes):
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)
        try:
            told = await _ask(sentinel, address.of_sentinel(sentinel), *question)
            if told is None:
                raise NotConnected(f"the Sentinel knows no service {address.service!r}")
            return await _primary_at(address.of(Node(told[0].decode(), int(told[1]))))
        except _FAILED as error:
            failed = error
    raise failed or NotConnected("there is no Sentinel")


async def _primary_at(url: str) -> AbstractConnection:
    """Return a connection to a server that says that it is a primary."""
    async with asyncio.timeout(LOG_ASK_S_MAX):
        connection = await _connect(url)
        try:
            await connection.send_command("ROLE")
            role = await connection.read_response()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
    if role[0] != _PRIMARY:
        await connection.disconnect(nowait=True)
        raise NotConnected("the Sentinel names a server that is no primary any longer")
    return connection


async def _ask(node: Node, url: str, *question: str) -> Any:
    """Return what a node or a Sentinel answers in time; it is avoided for a while if it does not.

    One that hangs must not take the time in which others answer.
    """
    try:
        async with asyncio.timeout(LOG_ASK_S_MAX):
            connection = await _connect(url)
            try:
                await connection.send_command(*question)
                return await connection.read_response()
            finally:
                await connection.disconnect(nowait=True)
    except _FAILED:
        _avoided_until_s[node] = monotonic_s() + LOG_AVOID_S
        raise
