"""A small HTTP/1.1 client for evp's own commands: one connection, kept alive, bounded waits."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import msgspec

from evp.errors import ServerUnavailable, UsageError, redact_url
from evp.limits import HTTP_ANSWER_BYTES_MAX, HTTP_ANSWER_S_MAX, HTTP_CONNECT_S_MAX

_NO_ANSWER = (
    OSError,
    TimeoutError,
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    ValueError,
)
_ANY = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}  # noqa: S104 - to recognise them


def http_url(host: str, port: int) -> str:
    """Return how this machine reaches a server that listens on `host`."""
    return f"http://{authority(_ANY.get(host, host), port)}"


def authority(host: str, port: int) -> str:
    """Return host and port as they stand in an address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Reply(NamedTuple):
    """A whole answer; header names are lower-case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The problem's code, or the status where the body is no problem."""
        try:
            return str(msgspec.json.decode(self.body)["code"])
        except (msgspec.DecodeError, KeyError, TypeError):
            return f"http_{self.status}"

    @property
    def detail(self) -> str:
        """What the problem says to people, or the status where the body is no problem."""
        try:
            return str(msgspec.json.decode(self.body)["detail"])
        except (msgspec.DecodeError, KeyError, TypeError):
            return f"answered with status {self.status}"


class HttpConnection:
    """One connection to one server. Dials when it is first used, and again when it was closed."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"{redact_url(url)} is no http address: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(f"{redact_url(url)} is no http address")
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._authority = authority(self._host, self._port)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._base = parts.path.rstrip("/")
        self._shown = f"{parts.scheme}://{self._authority}"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.close()

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request and return the answer.

        Raises ServerUnavailable if the server can't be reached or does not
        answer in time; what was sent may then have been accepted. Raises
        UsageError if a header can't be sent.
        """
        if not all(value.isprintable() for value in (headers or {}).values()):
            raise UsageError("a header, such as the API key, has only printable characters")
        head = [f"{method} {self._base}{path} HTTP/1.1", f"host: {self._authority}"]
        head += [f"{name}: {value}" for name, value in (headers or {}).items()]
        head += [f"content-length: {len(body)}", "", ""]
        try:
            reader, writer = await self._dialled()
            async with asyncio.timeout(HTTP_ANSWER_S_MAX):
                writer.write("\r\n".join(head).encode() + body)
                await writer.drain()
                return await self._read(reader)
        except _NO_ANSWER as error:
            self.close()
            raise ServerUnavailable(
                f"no answer from evp at {self._shown} ({str(error) or type(error).__name__}); "
                "is it running? `evp up` starts it, --url names another one"
            ) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next request dials anew."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _dialled(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            async with asyncio.timeout(HTTP_CONNECT_S_MAX):
                self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        return self._streams

    async def _read(self, reader: asyncio.StreamReader) -> Reply:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, _, rest = head[0].partition(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError("what answers there does not speak HTTP")
        headers = {}
        for line in filter(None, head[1:]):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = await _read_chunks(reader)
        else:
            length = _within_limit(int(headers.get("content-length", "0")))
            body = await reader.readexactly(length)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Reply(int(rest[:3]), headers, body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """Read a body whose length is not known before its end, as proxies send it."""
    body = b""
    while length := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        _within_limit(len(body) + length)
        body += (await reader.readexactly(length + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # Headers that follow the body.
    return body


def _within_limit(length: int) -> int:
    if not 0 <= length <= HTTP_ANSWER_BYTES_MAX:
        raise ValueError(f"an answer of {length} bytes")
    return length
