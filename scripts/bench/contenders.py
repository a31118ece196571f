"""Who is measured: how each is built, started, and what of it counts as accepted and stored.

evp runs as `evp up` does. The others are programs of their own in `contenders/`: a
server that appends to a stream and a worker that moves it to the store, one process
each, as with evp's defaults. What they need is installed into `.bench/` at first use.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pymongo import MongoClient
from redis import Redis

from engines import start_engines
from evp.engines.engine import free_port
from evp.running import read
from processes import Failed, Processes

SOURCES = Path(__file__).parent / "contenders"
BUILT = Path(__file__).parents[2] / ".bench"
STREAM = "events"


class Contender(NamedTuple):
    """A program of somebody else's: what it needs, how it is built and run.

    In commands `{source}` and `{built}` are its folders.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    install: tuple[tuple[str, ...], ...]
    serve: tuple[str, ...]
    work: tuple[str, ...]
    entry_is_request: bool = True
    """One entry of the stream holds the events of one request, or else one event."""


_VENV = (
    (sys.executable, "-m", "venv", "{built}"),
    ("{built}/bin/python", "-m", "pip", "install", "-q", "-r", "{source}/requirements.txt"),
)
_NPM = ("npm", "install", "--silent", "--no-package-lock", "--no-audit", "--no-fund")
_PYTHON = "{built}/bin/python"

OTHERS = (
    Contender(
        "fastify",
        "Fastify, ioredis, mongodb",
        ("node", "npm"),
        (("cp", "-R", "{source}/.", "{built}"), (*_NPM, "--prefix", "{built}")),
        ("node", "{built}/serve.js"),
        ("node", "{built}/work.js"),
    ),
    Contender(
        "fastapi",
        "FastAPI, redis-py, pymongo",
        (),
        _VENV,
        (_PYTHON, "{source}/serve.py"),
        (_PYTHON, "{source}/work.py"),
    ),
    Contender(
        "faststream",
        "FastAPI, FastStream",
        (),
        _VENV,
        (_PYTHON, "{source}/serve.py"),
        (_PYTHON, "{source}/work.py"),
    ),
    Contender(
        "connect",
        "Redpanda Connect (Benthos)",
        ("go",),
        (("go", "build", "-C", "{source}", "-o", "{built}/connect", "."),),
        ("{built}/connect", "-c", "{source}/serve.yaml"),
        ("{built}/connect", "-c", "{source}/work.yaml"),
    ),
)


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
    entry_is_request: bool | None
    """None: it is evp, whose log counts events itself."""

    def accepted(self, log: Any, events: int) -> int:
        """Return how many events the log has taken, if all came in requests of `events`."""
        if self.entry_is_request is None:
            return int(log.hget(f"{{{self.stream}}}:counters", "events") or 0)
        entries = int(log.xinfo_stream(self.stream)["entries-added"])
        return entries * events if self.entry_is_request else entries

    def stored(self) -> int:
        """Return how many events are in the store."""
        client: MongoClient[Any] = MongoClient(self.mongo_url)
        try:
            return client[self.database]["events"].count_documents({})
        finally:
            client.close()


def install(contender: Contender) -> None:
    """Build a contender unless that was done. Raises Failed, which names what is missing."""
    missing = [name for name in contender.needs if shutil.which(name) is None]
    if missing:
        raise Failed(f"{' and '.join(missing)} not found")
    built, source = BUILT / contender.name, SOURCES / contender.name
    mark = built / "installed"
    files = sorted(path for path in source.rglob("*") if path.suffix != ".pyc" and path.is_file())
    state = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
    if mark.exists() and mark.read_text() == state:
        return
    print(f"building {contender.title} in {built}", file=sys.stderr, flush=True)
    built.mkdir(parents=True, exist_ok=True)
    for command in contender.install:
        done = subprocess.run(_filled(contender, command), check=False, capture_output=True)
        if done.returncode:
            raise Failed(f"{command[0]} failed: {done.stderr.decode(errors='replace')[-500:]}")
    mark.write_text(state)


@contextmanager
def start(contender: Contender, folder: Path) -> Iterator[System]:
    """Run a contender on fresh engines. Raises Failed."""
    with Processes(folder) as processes:
        engines = start_engines(processes, folder)
        port, key = free_port(), secrets.token_hex(16)
        environ = {
            "PORT": str(port),
            "API_KEY": key,
            "REDIS_URL": engines.redis_url,
            "MONGO_URL": engines.mongo_url,
            "MONGO_DB": "bench",
            "STREAM": STREAM,
            "GROUP": "workers",
        }
        # Its own libraries, not those of this Python.
        environ |= dict.fromkeys(("PYTHONPATH", "VIRTUAL_ENV"), "")
        roles = {"serve": contender.serve, "work": contender.work}
        pids = {
            role: processes.start(role, _filled(contender, command), environ)
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
            "bench",
            STREAM,
            pids | engines.pids,
            processes,
            contender.entry_is_request,
        )


@contextmanager
def start_evp(folder: Path) -> Iterator[System]:
    """Run `evp up` with its defaults in a folder of its own. Raises Failed."""
    with Processes(folder) as processes:
        command = [sys.executable, "-m", "evp", "up", "--port", "0", "--data-dir", str(folder)]
        processes.start("up", command)
        running = processes.wait(lambda: read(folder), "evp up")
        yield System(
            running.http_url,
            running.api_key,
            running.redis_url,
            running.mongo_url,
            running.mongo_db,
            "evp:events",
            {role.partition("-")[0]: pid for role, pid in running.children.items()},
            processes,
            None,
        )


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


def _filled(contender: Contender, command: tuple[str, ...]) -> list[str]:
    folders = {"source": SOURCES / contender.name, "built": BUILT / contender.name}
    return [part.format(**folders) for part in command]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False
