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
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import RedisError

from evp.limits import LOG_COMMAND_S_MAX, LOG_CONNECT_S_MAX

SCHEMES = tuple(
    scheme + kind for scheme in ("redis", "rediss") for kind in ("", "+cluster", "+sentinel")
)
_PORT, _SENTINEL_PORT = 6379, 26379
_PRIMARY = b"master"
#: What another node or another server may answer better.
_FAILED = (RedisError, OSError, TimeoutError)


class Node(NamedTuple):
    """A server's address."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return it as addresses have it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Address(NamedTuple):
    """An address in parts. `path` is the database, and behind Sentinels the service before it."""

    scheme: str
    kind: str
    credentials: str
    nodes: tuple[Node, ...]
    path: str
    options: tuple[tuple[str, str], ...]

    def of(self, node: Node) -> str:
        """Return the address of one server."""
        options = [pair for pair in self.options if not pair[0].startswith("sentinel_")]
        query = f"?{urlencode(options)}" if options else ""
        number = self.path.rpartition("/")[2] if self.kind == "sentinel" else self.path
        return f"{self.scheme}://{self.credentials}{node}/{number}{query}"

    def of_sentinel(self, node: Node) -> str:
        """Return the address of one Sentinel."""
        given = dict(self.options)
        options = [pair for pair in self.options if pair[0].startswith("ssl_")]
        options += [
            (name, given[f"sentinel_{name}"])
            for name in ("username", "password")
            if f"sentinel_{name}" in given
        ]
        query = f"?{urlencode(options)}" if options else ""
        return f"{self.scheme}://{node}/0{query}"

    @property
    def service(self) -> str:
        """What Sentinels call the primary and its replicas."""
        return self.path.partition("/")[0]


def parse(url: str) -> Address:
    """Return an address in parts. Raises ValueError if it is none of the log's."""
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    credentials, at, hosts = parts.netloc.rpartition("@")
    port = _SENTINEL_PORT if kind == "sentinel" else _PORT
    nodes = tuple(_node(host, port) for host in hosts.split(","))
    path = parts.path.strip("/")
    if parts.scheme not in SCHEMES or (kind == "sentinel" and not path):
        raise ValueError(url)
    if kind == "sentinel" and "/" not in path:
        path += "/0"
    return Address(scheme, kind, credentials + at, nodes, path, tuple(parse_qsl(parts.query)))


def _node(text: str, port: int) -> Node:
    host = urlsplit(f"//{text}")
    if not host.hostname:
        raise ValueError(text)
    return Node(host.hostname, host.port or port)


async def dial(url: str, stream: str | None) -> AbstractConnection:
    """Return a connection to the server that has `stream`; of a single server it may be None.

    Takes LOG_COMMAND_S_MAX at most. Raises RedisError, OSError, TimeoutError, ValueError.
    """
    kind = urlsplit(url).scheme.partition("+")[2]
    async with asyncio.timeout(LOG_COMMAND_S_MAX):
        if kind == "cluster":
            if stream is None:
                raise ValueError("in a cluster there is no server for everything")
            return await _holder_of(parse(url), url, stream)
        if kind == "sentinel":
            return await _primary_of(parse(url))
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


async def _holder_of(address: Address, url: str, stream: str) -> AbstractConnection:
    """Return a connection to the node that holds the slot of `stream`."""
    slot = key_slot(stream.encode())
    failed: Exception | None = None
    for node in dict.fromkeys((*_nodes_seen.get(url, ()), *address.nodes)):
        try:
            told = await _ask(address.of(node), "CLUSTER", "SLOTS")
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
    for sentinel in address.nodes:
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service)
        try:
            told = await _ask(address.of_sentinel(sentinel), *question)
            if told is None:
                raise NotConnected(f"the Sentinel knows no service {address.service!r}")
            connection = await _connect(address.of(Node(told[0].decode(), int(told[1]))))
        except _FAILED as error:
            failed = error
            continue
        if await _is_primary(connection):
            return connection
        failed = NotConnected("the Sentinel names a server that is no primary any longer")
    raise failed or NotConnected("there is no Sentinel")


async def _is_primary(connection: AbstractConnection) -> bool:
    try:
        await connection.send_command("ROLE")
        role = await connection.read_response()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    if role[0] != _PRIMARY:
        await connection.disconnect(nowait=True)
        return False
    return True


async def _ask(url: str, *question: str) -> Any:
    connection = await _connect(url)
    try:
        await connection.send_command(*question)
        return await connection.read_response()
    finally:
        await connection.disconnect(nowait=True)
