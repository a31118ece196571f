"""TLS in front of an engine that speaks none, and certificates of a test's own.

The wheels' engines are built without TLS. What is tested is evp's side: which addresses dial
with TLS, whom they trust and what is told when they don't.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from evp.engines.engine import LOOPBACK

_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Certificates:
    """Files: a CA, a server's and a client's certificate by it, and a CA that has signed none."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    other_ca: Path

    def context(self, *, asks_client: bool) -> ssl.SSLContext:
        """Return what a server needs; one that `asks_client` takes no client without its own."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.load_cert_chain(self.server, self.server_key)
        context.verify_mode = ssl.CERT_REQUIRED if asks_client else ssl.CERT_NONE
        return context


def make_certificates(folder: Path) -> Certificates:
    """Make certificates that hold for a day, by openssl; without it the test is skipped."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    for name in ("ca", "other"):
        _openssl(
            folder,
            f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={name}",
            f"-keyout {name}.key -out {name}.crt",
        )
    (folder / "names").write_text(f"subjectAltName=IP:{LOOPBACK},DNS:localhost\n")
    for name in ("server", "client"):
        _openssl(
            folder,
            f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr",
        )
        _openssl(
            folder,
            f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1",
            f"-extfile names -out {name}.crt",
        )
        # A client of MongoDB takes key and certificate in one file.
        both = (folder / f"{name}.crt").read_text() + (folder / f"{name}.key").read_text()
        (folder / f"{name}.pem").write_text(both)
    files = ("ca.crt", "server.crt", "server.key", "client.pem", "client.key", "other.crt")
    return Certificates(*(folder / name for name in files))


def _openssl(folder: Path, *arguments: str) -> None:
    command = ["openssl", *" ".join(arguments).split()]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@contextlib.asynccontextmanager
async def tls_to(
    port: int, certificates: Certificates, *, front: int = 0, asks_client: bool = False
) -> AsyncIterator[int]:
    """Run TLS in front of a port, at `front` or any free one; gives that port."""
    pumps: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(LOOPBACK, port)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, back), (there, writer)):
            pump = asyncio.create_task(_pump(source, sink))
            pumps.add(pump)
            pump.add_done_callback(pumps.discard)

    context = certificates.context(asks_client=asks_client)
    server = await asyncio.start_server(serve, LOOPBACK, front, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for pump in list(pumps):
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while content := await source.read(_CHUNK_BYTES):
            sink.write(content)
            await sink.drain()
    except (OSError, ssl.SSLError):
        pass  # One side has gone; so does the other.
    finally:
        sink.close()
