"""evp's own requests to a server: bounded waits, and errors that say what to do next."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import httpx2
import msgspec

from evp.errors import ServerUnavailable, UsageError, redact_url
from evp.limits import (
    HTTP_ANSWER_BYTES_MAX,
    HTTP_ANSWER_S_MAX,
    HTTP_CONNECT_S_MAX,
    HTTP_KEEP_ALIVE_S,
    HTTP_RETRY_AFTER_S_MAX,
)

#: This machine is asked directly, whatever proxy leads to the world outside.
_DIRECT = {"all://127.0.0.1": None, "all://localhost": None, "all://[::1]": None}
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
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_problem(self) -> bool:
        """Whether the body is a problem, as evp's are; a proxy says what it likes."""
        return isinstance(self._told("code", None), str)

    @property
    def code(self) -> str:
        """The problem's code, or the status where the body is no problem."""
        return str(self._told("code", f"http_{self.status}"))

    @property
    def detail(self) -> str:
        """What the problem says to people, or the status where the body is no problem."""
        return str(self._told("detail", f"answered with status {self.status}"))

    @property
    def path(self) -> str | None:
        """Where in the request the culprit is, if the problem says so."""
        found = self._told("path", None)
        return found if isinstance(found, str) else None

    @property
    def culprit(self) -> int | None:
        """The index of the culprit in its batch, if the problem says so."""
        found = self._told("index", None)
        return found if isinstance(found, int) else None

    @property
    def retry_after_s(self) -> float:
        """How long to wait before the next attempt, within bounds; a second if it is not said."""
        try:
            asked_s = float(self.headers.get("retry-after", "1"))
        except ValueError:
            asked_s = 1.0
        return min(max(0.1, asked_s), HTTP_RETRY_AFTER_S_MAX)

    def _told(self, member: str, otherwise: Any) -> Any:
        try:
            return msgspec.json.decode(self.body)[member]
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
            return otherwise


class HttpConnection:
    """Connections to one server, one unless more are allowed.

    Dials when it is first used, and again when it was closed. `hint` is what to
    do if nobody answers.
    """

    def __init__(
        self,
        url: str,
        *,
        connections_max: int = 1,
        hint: str = "`evp up` starts it, --url names another one",
    ) -> None:
        try:
            address = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise UsageError(f"{redact_url(url)} is no http address: {error}") from error
        if address.scheme not in {"http", "https"} or not address.host:
            raise UsageError(f"{redact_url(url)} is no http address")
        self._shown = redact_url(url)
        self._hint = hint
        self._client = httpx2.AsyncClient(
            base_url=address,
            timeout=httpx2.Timeout(HTTP_ANSWER_S_MAX, connect=HTTP_CONNECT_S_MAX),
            limits=httpx2.Limits(
                max_connections=connections_max, keepalive_expiry=HTTP_KEEP_ALIVE_S
            ),
            mounts=_DIRECT,
            # Reading the machine's certificates takes 50 ms; only TLS needs them.
            verify=address.scheme == "https",
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect."""
        await self._client.aclose()

    async def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        within_s: float = HTTP_CONNECT_S_MAX + HTTP_ANSWER_S_MAX,
    ) -> Reply:
        """Send a request and return the answer.

        Raises ServerUnavailable if the server can't be reached or does not
        answer in time; what was sent may then have been accepted. Raises
        UsageError if a header can't be sent, or if it was closed.
        """
        if self._client.is_closed:
            raise UsageError("this client is closed: nothing more can be sent by it")
        if not all(value.isprintable() for value in (headers or {}).values()):
            raise UsageError("a header, such as the API key, has only printable characters")
        encoded = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        try:
            async with (
                asyncio.timeout(within_s),
                self._client.stream(method, path, content=body, headers=encoded) as answer,
            ):
                return Reply(answer.status_code, answer.headers, await _body_of(answer))
        except (httpx2.HTTPError, OSError, TimeoutError) as error:
            raise ServerUnavailable(
                f"no answer from evp at {self._shown} ({str(error) or type(error).__name__}); "
                f"is it running? {self._hint}"
            ) from error


async def _body_of(answer: httpx2.Response) -> bytes:
    body = bytearray()
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > HTTP_ANSWER_BYTES_MAX:
            raise httpx2.ReadError(f"the answer has more than {HTTP_ANSWER_BYTES_MAX} bytes")
    return bytes(body)
