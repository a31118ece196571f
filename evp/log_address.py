"""Addresses of the log, in parts; `evp.stream.dial` says what each kind stands for."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

SCHEMES = tuple(
    scheme + kind for scheme in ("redis", "rediss") for kind in ("", "+cluster", "+sentinel")
)
_PORT, _SENTINEL_PORT = 6379, 26379


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
    """Return an address in parts.

    Raises ValueError if it is none of the log's, without its text, as that may hold a part of a
    password that was not escaped.
    """
    try:
        return _parse(url)
    except ValueError:
        raise ValueError("no address of a log: is something in the password not escaped?") from None


def _parse(url: str) -> Address:
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    credentials, at, hosts = parts.netloc.rpartition("@")
    port = _SENTINEL_PORT if kind == "sentinel" else _PORT
    nodes = tuple(_node(host, port) for host in hosts.split(","))
    path = parts.path.strip("/")
    if parts.scheme not in SCHEMES or (kind == "sentinel" and not path):
        raise ValueError(parts.scheme)
    if kind == "sentinel" and "/" not in path:
        path += "/0"
    return Address(scheme, kind, credentials + at, nodes, path, tuple(parse_qsl(parts.query)))


def _node(text: str, port: int) -> Node:
    host = urlsplit(f"//{text}")
    if not host.hostname:
        raise ValueError(text)
    return Node(host.hostname, host.port or port)
