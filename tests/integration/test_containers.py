"""Engines in containers: what is asked of Docker, how it is waited for, and what is left.

Docker is a stand-in here, whose containers are processes. Where there is a real one,
EVP_REQUIRE_DOCKER=1 has all other tests run on it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from testcontainers.core.config import ConnectionMode, testcontainers_config

from tests.support import containers
from tests.support.containers import ContainerServer
from tests.support.docker import Container, Docker, docker, listens, log_of_the_wheel, port_in
from tests.support.ladder import LOG_IMAGE, STORE_IMAGE, docker_answers
from tests.support.servers import own_log, own_store, shared_log

#: What stands for a server that is not looked into.
IDLE = (
    "import socket, time; there = socket.create_server(('127.0.0.1', {port})); "
    "print('here', flush=True); time.sleep(600)"
)
ENDS = "print('no such option', flush=True)"


def idle(arguments: list[str], _folder: Path) -> list[str]:
    """Run something that only listens, elsewhere if it is told to, or something that ends."""
    port = 0 if "--elsewhere" in arguments else port_in(arguments)
    return [sys.executable, "-c", ENDS if "--wrong" in arguments else IDLE.format(port=port)]


class Daemon:
    """The stand-in, and what the commands that are run in its containers end with."""

    def __init__(self) -> None:
        self.docker: Docker
        self.codes: list[int] = []

    def run(self, one: Container, command: list[str]) -> int:
        """End with the next code; if none is left, with 0 once the container can be reached."""
        return self.codes.pop(0) if self.codes else listens(one, command)

    @property
    def only(self) -> Container:
        """The one container that there is."""
        [container] = self.docker.containers.values()
        return container


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon that the test's own ladder finds, and must."""
    daemon, at_exit = Daemon(), list[Any]()
    images = {"valkey/valkey": log_of_the_wheel, "redis": log_of_the_wheel, "mongo": idle}
    with docker(images, daemon.run) as (daemon.docker, host), monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", host)
        patch.setenv("EVP_REQUIRE_DOCKER", "1")
        for name in ("EVP_TEST_REDIS_URL", "EVP_TEST_REDIS_IMAGE", "EVP_TEST_MONGO_IMAGE"):
            patch.delenv(name, raising=False)
        patch.setattr(testcontainers_config, "ryuk_disabled", True)
        patch.setattr(testcontainers_config, "connection_mode_override", ConnectionMode.docker_host)
        patch.setattr(containers, "at_exit", at_exit.append)
        yield daemon
        for remove in at_exit:
            remove()
        assert daemon.docker.containers == {}
        assert len(daemon.docker.removed) == len(at_exit)


def test_a_daemon_is_found(daemon: Daemon) -> None:
    """Where DOCKER_HOST leads to a daemon, it is asked no more than whether it is there."""
    assert docker_answers()
    assert daemon.docker.containers == {}


def test_log_in_a_container(daemon: Daemon, tmp_path: Path) -> None:
    """A log keeps what it acknowledged over kill and start, on one port, reached from here only."""
    server = own_log(tmp_path, "--maxmemory", "64mb")
    assert isinstance(server, ContainerServer)
    assert not server.running
    daemon.codes = [1, 1]
    server.start()
    assert daemon.docker.pulled == [LOG_IMAGE.name]
    assert daemon.only.asked["Cmd"] == [
        *("--bind", "127.0.0.1", "--port", str(server.port)),
        *("--appendonly", "yes", "--appendfsync", "always"),
        *("--auto-aof-rewrite-min-size", "1gb", "--save", ""),
        *("--maxmemory-policy", "noeviction", "--maxmemory", "64mb"),
    ]
    assert daemon.only.asked["HostConfig"]["NetworkMode"] == "host"
    ping = f"valkey-cli -e -p {server.port} ping || redis-cli -e -p {server.port} ping"
    assert daemon.only.executed == [["sh", "-c", ping]] * 3
    with Redis.from_url(server.url) as log:
        assert log.config_get("appendfsync") == {"appendfsync": "always"}
        log.set("kept", 1)
        server.kill()
        assert not server.running
        with pytest.raises(RedisError):
            log.ping()
        server.start()
        assert log.get("kept") == b"1"
    assert server.pid == daemon.only.pid
    server.stop()
    server.stop()
    assert not server.running


def test_a_paused_container_lives(daemon: Daemon, tmp_path: Path) -> None:
    """A paused log holds connections and answers nothing; then it answers all."""
    server = own_log(tmp_path)
    server.start()
    with Redis.from_url(server.url, socket_timeout=0.2, retry=None) as log:
        log.ping()
        with server.paused():
            assert server.running
            with pytest.raises(RedisError):
                log.ping()
        assert log.ping()


def test_store_in_a_container(daemon: Daemon, tmp_path: Path) -> None:
    """A store is a replica set of one: it is waited for until it says that it is primary."""
    server = own_store(tmp_path, fails=True)
    daemon.codes = [1, 1, 0]
    server.start()
    assert daemon.docker.pulled == [STORE_IMAGE.name]
    assert daemon.only.asked["Cmd"] == [
        *("mongod", "--replSet", "evp", "--bind_ip", "127.0.0.1", "--port", str(server.port)),
        *("--setParameter", "enableTestCommands=1"),
    ]
    script = (
        "try { rs.status() } catch { "
        f"rs.initiate({{_id: 'evp', members: [{{_id: 0, host: '127.0.0.1:{server.port}'}}]}}) }} "
        "quit(db.hello().isWritablePrimary ? 0 : 1)"
    )
    shell = ["mongosh", "--quiet", "--port", str(server.port), "--eval", script]
    assert daemon.only.executed == [shell] * 3
    assert server.url == f"mongodb://127.0.0.1:{server.port}/?directConnection=true"


def test_the_image_can_be_another(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable names another image; what it is given suits Redis and Valkey alike."""
    monkeypatch.setenv(LOG_IMAGE.image_key, "redis:7.2-alpine")
    with shared_log(tmp_path) as url, Redis.from_url(url) as log:
        assert daemon.docker.pulled == ["redis:7.2-alpine"]
        assert daemon.only.asked["Cmd"][0].startswith("--")
        assert log.ping()
    assert daemon.only.status == "exited"


def test_an_image_that_is_there_is_not_pulled(daemon: Daemon, tmp_path: Path) -> None:
    """A second engine of one image needs no registry."""
    daemon.codes = [0, 0]
    own_store(tmp_path).start()
    own_store(tmp_path).start()
    assert daemon.docker.pulled == [STORE_IMAGE.name]


def test_what_ends_at_once_is_told(daemon: Daemon) -> None:
    """A container that ends before it serves fails the test at once, with what it said."""
    daemon.codes = [1] * 1000
    with pytest.raises(AssertionError, match="no such option"):
        ContainerServer(STORE_IMAGE, "--wrong").start()


def test_what_never_serves_is_told(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lives and never serves fails after a time, with what it said."""
    monkeypatch.setattr(containers, "READY_S_MAX", 0.3)
    daemon.codes = [1] * 1000
    with pytest.raises(AssertionError, match=r"not ready within 0\.3 s: here"):
        ContainerServer(STORE_IMAGE).start()


def test_what_serves_elsewhere_is_told(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Docker's host network is not this machine's, that is said, once, and what to do."""
    monkeypatch.setattr(containers, "DIAL_S_MAX", 0.3)
    daemon.codes = [0]
    with pytest.raises(AssertionError, match="EVP_TEST_DOCKER=0 does without"):
        ContainerServer(STORE_IMAGE, "--elsewhere").start()
