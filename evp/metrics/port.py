"""A port for metrics, and for probes, of processes that serve nothing else.

Anyone may reach it, and beside it a worker works: one request on each connection,
a short head, little time, few at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from http import HTTPStatus
from typing import NamedTuple

from evp.limits import METRICS_CONNECTIONS_MAX, METRICS_HEAD_BYTES_MAX, METRICS_REQUEST_S_MAX
from evp.logs import get
from evp.metrics.exporter import Exporter, may_read
from evp.signals import end

PATH = "/metrics"
LIVE_PATH = "/api/live"
_TEXT = "text/plain; charset=utf-8"
_LEFT_OVER_BYTES = 4_096
_log = get("evp.metrics")


class _Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]


class _Answer(NamedTuple):
    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT


_BUSY = _Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"too many ask for metrics; come again\n")
_NOT_HTTP = _Answer(HTTPStatus.BAD_REQUEST, b"this is not HTTP/1.1\n")
_TOO_LARGE = _Answer(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    b"headers may have %d bytes\n" % METRICS_HEAD_BYTES_MAX,
)
_LIVE = _Answer(HTTPStatus.OK, b'{"status":"live"}\n', "application/json")
_ELSEWHERE = _Answer(HTTPStatus.NOT_FOUND, b"there are /metrics and /api/live, nothing else\n")
_NO_GET = _Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"this path takes GET\n")
_NO_TOKEN = _Answer(
    HTTPStatus.UNAUTHORIZED, b"send the token of EVP_METRICS_TOKEN: authorization: Bearer ...\n"
)


async def tell_metrics(
    exporter: Exporter,
    listener: socket.socket,
    token: str | None,
    request_s_max: float = METRICS_REQUEST_S_MAX,
) -> None:
    """Answer GET /metrics and /api/live on a listener, which others may share, until cancelled.

    That a process lives is told without a token, and without a look at the log.
    A connection is closed after its answer, and after `request_s_max` in any case.
    """
    port = _Port(exporter, token, request_s_max)
    server = await asyncio.start_server(
        port.connected, sock=listener, limit=METRICS_HEAD_BYTES_MAX, backlog=METRICS_CONNECTIONS_MAX
    )
    try:
        # Not `serve_forever`, which at its end would wait for those who are connected.
        await asyncio.Event().wait()
    finally:
        server.close()
        await port.close()


class _Port:
    """The connections that are open."""

    def __init__(self, exporter: Exporter, token: str | None, request_s_max: float) -> None:
        self._exporter = exporter
        self._token = token
        self._request_s_max = request_s_max
        self._open: set[asyncio.Task[None]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection; one too many is told so."""
        if len(self._open) >= METRICS_CONNECTIONS_MAX:
            writer.write(_on_the_wire(_BUSY))
            writer.close()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="metrics")
        self._open.add(task)
        task.add_done_callback(self._closed)

    async def close(self) -> None:
        """Close all of them."""
        await end(*self._open)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("unexpected error in a request", exc_info=task.exception())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Whoever is late or has gone waits for no answer.
            with contextlib.suppress(TimeoutError, OSError):
                async with asyncio.timeout(self._request_s_max):
                    await self._answer(reader, writer)
        finally:
            # Not `close`, which would wait for a client that does not read.
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request: _Request | None = None
        try:
            request = _request_of(await reader.readuntil(b"\r\n\r\n"))
            answer = await self._answer_to(request)
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            answer = _TOO_LARGE
        except ValueError:
            answer = _NOT_HTTP
        writer.write(_on_the_wire(answer, with_body=request is None or request.method != "HEAD"))
        writer.write_eof()
        await writer.drain()
        # To close with bytes unread would reset the connection, and the answer could be lost.
        while await reader.read(_LEFT_OVER_BYTES):
            pass

    async def _answer_to(self, request: _Request) -> _Answer:
        if request.path not in {PATH, LIVE_PATH}:
            return _ELSEWHERE
        if request.method not in {"GET", "HEAD"}:
            return _NO_GET
        if request.path == LIVE_PATH:
            return _LIVE
        if not may_read(self._token, request.headers.get("authorization")):
            return _NO_TOKEN
        body, content_type = await self._exporter.told(request.headers.get("accept", ""))
        return _Answer(HTTPStatus.OK, body, content_type)


def _request_of(head: bytes) -> _Request:
    """Return what a head asks for. Raises ValueError if it is none of HTTP/1."""
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(version)
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return _Request(method, target.partition("?")[0], headers)


def _on_the_wire(answer: _Answer, *, with_body: bool = True) -> bytes:
    lines = (
        f"HTTP/1.1 {answer.status} {answer.status.phrase}",
        f"content-type: {answer.content_type}",
        f"content-length: {len(answer.body)}",
        "connection: close",
    )
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return head + answer.body if with_body else head
