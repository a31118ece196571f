"""Which engines the tests run on.

The first rung that holds:

1. an address in EVP_TEST_REDIS_URL or EVP_TEST_MONGO_URL,
2. a container, if this machine has Linux and a Docker daemon that answers, unless
   EVP_TEST_DOCKER=0,
3. a program on PATH (a log must know WAITAOF),
4. the program in a wheel.

With EVP_REQUIRE_DOCKER=1 a missing daemon is an error, and the engines that a test
has for itself, to kill and to pause, are containers too. Without it these are
programs, which start in a tenth of the time. EVP_TEST_REDIS_IMAGE and
EVP_TEST_MONGO_IMAGE name other images.

Containers are on the network of this machine, on loopback: an engine is reached by
tests, by evp and by its own replicas as a program would be.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from evp.engines.locate import Binary

REQUIRE_DOCKER = "EVP_REQUIRE_DOCKER"
NO_DOCKER = "EVP_TEST_DOCKER"
_DOCKER_PING_S_MAX = 2.0


class Address(Struct, frozen=True):
    """Somebody else's server: nothing of it may be flushed, killed or set."""

    url: str


class Image(Struct, frozen=True):
    """A server in a container. `{port}` in what is run and in the address is to be filled in."""

    name: str
    image_key: str
    """Variable that names another image."""
    command: tuple[str, ...]
    """What begins with a dash goes to the server that the image runs by itself."""
    ready: tuple[str, ...]
    """Run in the container again and again; once it ends with 0, the server serves."""
    url: str


class DockerMissing(Exception):
    """Raised where Docker was asked for and no daemon answers."""


#: Redis and Valkey name their programs differently; their images take bare options alike.
LOG_IMAGE = Image(
    "valkey/valkey:9.1-alpine",
    "EVP_TEST_REDIS_IMAGE",
    (
        *("--bind", "127.0.0.1"),
        *("--port", "{port}"),
        *("--appendonly", "yes"),
        *("--appendfsync", "always"),
        *("--auto-aof-rewrite-min-size", "1gb"),
        *("--save", ""),
        *("--maxmemory-policy", "noeviction"),
    ),
    ("sh", "-c", "valkey-cli -e -p {port} ping || redis-cli -e -p {port} ping"),
    "redis://127.0.0.1:{port}/0",
)

#: Makes a set of one member the first time, then tells by its exit code whether it is primary.
_PRIMARY = (
    "try {{ rs.status() }} catch {{ "
    "rs.initiate({{_id: 'evp', members: [{{_id: 0, host: '127.0.0.1:{port}'}}]}}) }} "
    "quit(db.hello().isWritablePrimary ? 0 : 1)"
)

STORE_IMAGE = Image(
    "mongo:8.0",
    "EVP_TEST_MONGO_IMAGE",
    ("mongod", "--replSet", "evp", "--bind_ip", "127.0.0.1", "--port", "{port}"),
    ("mongosh", "--quiet", "--port", "{port}", "--eval", _PRIMARY),
    "mongodb://127.0.0.1:{port}/?directConnection=true",
)


def choose(
    address_key: str,
    image: Image,
    find: Callable[[], Binary],
    *,
    environ: Mapping[str, str],
    docker_answers: Callable[[], bool],
) -> Address | Image | Binary:
    """Return the rung for an engine that a whole session shares.

    Raises DockerMissing, and EngineFailed if there is nothing at all.
    """
    url = environ.get(address_key)
    if url:
        return Address(url)
    if environ.get(NO_DOCKER) != "0" and docker_answers():
        return _named(image, environ)
    if environ.get(REQUIRE_DOCKER) == "1":
        raise DockerMissing(f"{REQUIRE_DOCKER}=1, but no Docker daemon answers")
    return find()


def choose_own(
    image: Image,
    find: Callable[[], Binary],
    *,
    environ: Mapping[str, str],
    docker_answers: Callable[[], bool],
) -> Image | Binary:
    """Return the rung for an engine that a test has for itself.

    Raises DockerMissing, and EngineFailed if there is nothing at all.
    """
    if environ.get(REQUIRE_DOCKER) != "1":
        return find()
    if not docker_answers():
        raise DockerMissing(f"{REQUIRE_DOCKER}=1, but no Docker daemon answers")
    return _named(image, environ)


def _named(image: Image, environ: Mapping[str, str]) -> Image:
    return msgspec.structs.replace(image, name=environ.get(image.image_key) or image.name)


def docker_answers() -> bool:
    """Return True if a Docker daemon of this machine answers, at DOCKER_HOST or the usual socket.

    Elsewhere than on Linux its containers have no network in common with this machine.
    """
    address = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    is_socket = address.scheme == "unix"
    if sys.platform != "linux" or not (is_socket or address.hostname in {"127.0.0.1", "localhost"}):
        return False
    try:
        with socket.socket(socket.AF_UNIX if is_socket else socket.AF_INET) as client:
            client.settimeout(_DOCKER_PING_S_MAX)
            client.connect(address.path if is_socket else (address.hostname, address.port))
            client.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in client.recv(64)
    except (OSError, TypeError):
        return False
