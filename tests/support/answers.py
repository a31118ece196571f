"""A server that answers as a test says, to be what a real one rarely is: busy, odd, or gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import msgspec

Answer = tuple[int, dict[str, str], bytes] | bytes | None
"""Status, further headers and body; or bytes as they are; or none, and the connection closes."""


def accepted(body: bytes) -> Answer:
    """Return what evp says that has taken a batch, one event a line."""
    told = {"accepted": len(body.splitlines()), "receipt": "r", "durability": "fsync"}
    return 202, {}, msgspec.json.encode(told)


def problem(status: int, code: str, **members: object) -> tuple[int, dict[str, str], bytes]:
    """Return a refusal."""
    return status, {}, msgspec.json.encode({"code": code, "detail": "no"} | members)


def busy(retry_after_s: float = 0.0) -> tuple[int, dict[str, str], bytes]:
    """Return what a server says whose log is full."""
    body = b'{"code": "backlog_full", "detail": "too much"}'
    return 503, {"retry-after": f"{retry_after_s:g}"}, body


def scripted(*answers: Answer) -> Callable[[bytes], Answer]:
    """Answer in this order, and then accept everything."""
    waiting = list(answers)
    return lambda body: waiting.pop(0) if waiting else accepted(body)


@contextlib.asynccontextmanager
async def answering(answer: Callable[[bytes], Answer]) -> AsyncIterator[str]:
    """Run a server that answers each body as it is told; gives its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split()[0])
                said = answer(await reader.readexactly(length))
                if said is None:
                    break
                if isinstance(said, tuple):
                    status, headers, body = said
                    lines = [f"HTTP/1.1 {status} -", f"content-length: {len(body)}"]
                    lines += [f"{name}: {value}" for name, value in headers.items()]
                    said = "\r\n".join([*lines, "", ""]).encode() + body
                writer.write(said)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
