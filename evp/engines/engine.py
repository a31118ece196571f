"""An engine on a port and a folder of its own: how it is started, reached and asked.

Engines listen on loopback only, write everything to disk before they answer,
and open again what they left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import bson
from msgspec import Struct

from evp.engines.locate import Binary
from evp.errors import EngineFailed
from evp.limits import ENGINE_PORTS, ENGINE_PORTS_TRIED_MAX, PROBE_S_MAX
from evp.supervise import Child

LOOPBACK = "127.0.0.1"
_OP_MSG = 2013
_HEADER = struct.Struct("<iiii")


class Engine(Struct, frozen=True):
    """One engine: the program, its port and folder, and the address it has."""

    binary: Binary
    port: int
    folder: Path
    url: str

    def child(
        self,
        name: str,
        log_path: Path,
        environ: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Return the engine as a child to supervise; it stops after everything that uses it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = _ARGUMENTS[self.binary.kind]
        ping = _ping_log if self.url.startswith("redis") else _ping_store
        return Child(
            name=name,
            command=[*self.binary.command, *arguments(self.port, self.folder)],
            environ=environ,
            ready=lambda: ping(self.port),
            pass_fds=pass_fds,
            log_path=log_path,
            stop_group=1,
            # Nobody is left then to insist, and what it answered is on disk.
            orphan_signal=signal.SIGKILL,
        )


def log_engine(binary: Binary, folder: Path) -> Engine:
    """Return a log on a free port."""
    port = free_port()
    return Engine(binary, port, folder, f"redis://{LOOPBACK}:{port}/0")


def store_engine(binary: Binary, folder: Path) -> Engine:
    """Return a store on a free port."""
    port = free_port()
    return Engine(binary, port, folder, f"mongodb://{LOOPBACK}:{port}/?directConnection=true")


def free_port() -> int:
    """Return a port that was free a moment ago. Raises EngineFailed if none is found.

    No connection gets one of these as its own port: nobody takes an engine's port
    while it is started again, and nobody who dials it meanwhile reaches himself.
    """
    for _ in range(ENGINE_PORTS_TRIED_MAX):
        port = secrets.choice(ENGINE_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise EngineFailed(f"no free port from {ENGINE_PORTS[0]} to {ENGINE_PORTS[-1]}")


def _redis_arguments(port: int, folder: Path) -> list[str]:
    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(folder.resolve()),
        "appendonly": "yes",
        "appendfsync": "always",
        # Rewriting by a hundred per cent growth would begin every few seconds under load.
        "auto-aof-rewrite-min-size": "1gb",
        "save": "",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return [item for name, value in options.items() for item in (f"--{name}", value)]


def _mongod_arguments(port: int, folder: Path) -> list[str]:
    return ["--bind_ip", LOOPBACK, "--port", str(port), "--dbpath", str(folder.resolve())]


def _secantus_arguments(port: int, folder: Path) -> list[str]:
    return [
        *("--host", LOOPBACK),
        *("--port", str(port)),
        *("--storage-path", str(folder.resolve())),
        "--standalone",
        "--sync-on-commit",
    ]


_ARGUMENTS = {
    "valkey-server": _redis_arguments,
    "redis-server": _redis_arguments,
    "mongod": _mongod_arguments,
    "secantusd-rs": _secantus_arguments,
    "secantusd-py": _secantus_arguments,
}


async def _ping_log(port: int) -> bool:
    """Return True once the log has read its file and answers (PING)."""
    return (await _exchange(port, b"PING\r\n", 5)) == b"+PONG"


async def _ping_store(port: int) -> bool:
    """Return True once the store answers (OP_MSG with hello)."""
    body = b"\0\0\0\0\0" + bson.encode({"hello": 1, "$db": "admin"})
    message = _HEADER.pack(_HEADER.size + len(body), 1, 0, _OP_MSG) + body
    return len(await _exchange(port, message, _HEADER.size)) == _HEADER.size


async def _exchange(port: int, message: bytes, answer_bytes: int) -> bytes:
    """Send a message and return the first bytes of the answer; nothing if there is none."""
    try:
        async with asyncio.timeout(PROBE_S_MAX):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(message)
                return await reader.readexactly(answer_bytes)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return b""
