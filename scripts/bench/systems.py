"""Contenders that run: on engines of their own, ready to take events, stopped at the end."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pymongo import MongoClient
from redis import Redis

from contenders import Contender, filled
from engines import given_store, start_engines
from evp.engines.engine import free_port
from evp.running import read
from processes import Processes

STREAM = "events"


class System(NamedTuple):
    """A contender that runs: where it takes events, and where they end up."""

    url: str
    key: str
    redis_url: str
    mongo_url: str
    database: str
    stream: str
    pids: dict[str, int]
    processes: Processes
    counts_events: bool
    """The log of evp counts events; elsewhere an entry of the stream is a request."""

    def accepted(self, log: Any, events: int) -> int:
        """Return how many events the log has taken, if all came in requests of `events`."""
        if self.counts_events:
            return int(log.hget(f"{{{self.stream}}}:counters", "events") or 0)
        return int(log.xinfo_stream(self.stream)["entries-added"]) * events

    def stored(self) -> int:
        """Return how many events are in the store."""
        client: MongoClient[Any] = MongoClient(self.mongo_url)
        try:
            return client[self.database]["events"].count_documents({})
        finally:
            client.close()


@contextmanager
def start(contender: Contender, folder: Path) -> Iterator[System]:
    """Run a contender on fresh engines. Raises Failed."""
    with Processes(folder) as processes:
        engines = start_engines(processes, folder)
        port, key, database = free_port(), secrets.token_hex(16), _database()
        environ = {
            "PORT": str(port),
            "API_KEY": key,
            "REDIS_URL": engines.redis_url,
            "MONGO_URL": engines.mongo_url,
            "MONGO_DB": database,
            "STREAM": STREAM,
            "GROUP": "workers",
        }
        # Its own libraries, not those of this Python.
        environ |= dict.fromkeys(("PYTHONPATH", "VIRTUAL_ENV"), "")
        roles = {"serve": contender.serve, "work": contender.work}
        pids = {
            role: processes.start(role, filled(contender, command), environ)
            for role, command in roles.items()
        }
        with Redis.from_url(engines.redis_url) as log:
            processes.wait(lambda: log.exists(STREAM) and log.xinfo_groups(STREAM), "its worker")
        processes.wait(lambda: _listens(port), "its server")
        yield System(
            f"http://127.0.0.1:{port}",
            key,
            engines.redis_url,
            engines.mongo_url,
            database,
            STREAM,
            pids | engines.pids,
            processes,
            counts_events=False,
        )


@contextmanager
def start_evp(folder: Path, flags: Sequence[str] = ()) -> Iterator[System]:
    """Run `evp up`, with its defaults but for `flags`, in a folder of its own. Raises Failed."""
    with Processes(folder) as processes:
        command = [sys.executable, "-m", "evp", "up", "--port", "0", "--data-dir", str(folder)]
        environ, pids = dict[str, str](), dict[str, int]()
        given = given_store()
        if given is not None:
            environ = {"EVP_MONGO_URL": given[0], "EVP_MONGO_DB": _database()}
            pids = {"store": given[1]}
        processes.start("up", [*command, *flags], environ)
        running = processes.wait(lambda: read(folder), "evp up")
        pids |= {_role(name, running.children): pid for name, pid in running.children.items()}
        yield System(
            running.http_url,
            running.api_key,
            running.redis_url,
            running.mongo_url,
            running.mongo_db,
            "evp:events",
            pids,
            processes,
            counts_events=True,
        )


def _database() -> str:
    """Return the name of a database that nobody has used: a given store serves all turns."""
    return f"bench_{secrets.token_hex(4)}"


def _role(name: str, children: Mapping[str, int]) -> str:
    """Return the role of a child; with its number where there are several of one."""
    role = name.partition("-")[0]
    several = sum(one.startswith(f"{role}-") for one in children) > 1
    return name if several else role


@contextmanager
def plain_asgi(system: System, folder: Path) -> Iterator[System]:
    """Run evp's own handler as an ASGI app beside `evp serve`, on the same engines."""
    port = free_port()
    environ = {
        "EVP_REDIS_URL": system.redis_url,
        "EVP_MONGO_URL": system.mongo_url,
        "EVP_API_KEYS": system.key,
        "EVP_PORT": str(port),
    }
    with Processes(folder) as processes:
        app = str(Path(__file__).parent / "asgi_server.py")
        pid = processes.start("asgi", [sys.executable, app], os.environ | environ)
        processes.wait(lambda: _listens(port), "the ASGI app")
        yield system._replace(url=f"http://127.0.0.1:{port}", pids=system.pids | {"serve": pid})


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False
