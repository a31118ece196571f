"""One connection of a load generator: a request goes out, its answer comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import httptools

from evp.http import Reply
from evp.limits import HTTP_ANSWER_BYTES_MAX


class Request(NamedTuple):
    """A request by its number, the time of its events, and when it was due (monotonic)."""

    number: int
    time_ms: int
    due_at_s: float


Replied = Callable[["Connection", Request, "Reply | None"], None]
"""Called once for each request; without a reply if the connection ended before there was one."""


class Connection(asyncio.Protocol):
    """Sends one request at a time; `closed` is done once the connection has ended."""

    def __init__(self, replied: Replied) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent_at_s = 0.0
        self.request: Request | None = None
        self.is_open = False
        self.has_served = False
        self._replied = replied
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0

    def send(self, request: Request, text: bytes, now_s: float) -> None:
        """Send a request as it goes over the wire, on a connection that waits for none."""
        self.request, self.sent_at_s = request, now_s
        try:
            self._transport.write(text)
        except RuntimeError as error:  # Of uvloop: it was reset while it idled.
            self.connection_lost(error)

    def abort(self) -> None:
        """End the connection at once."""
        self.is_open = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self._transport = transport
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Parse what came in; what is no HTTP ends the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - of the protocol
        """Tell that no reply will come."""
        self.is_open = False
        if not self.closed.done():
            self.closed.set_result(None)
        request, self.request = self.request, None
        if request is not None:
            self._replied(self, request, None)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the one header that matters."""
        if name.lower() == b"retry-after":
            self._headers = {"retry-after": value.decode("latin-1")}

    def on_body(self, body: bytes) -> None:
        """Collect the body, within bounds."""
        self._body_bytes += len(body)
        if self._body_bytes > HTTP_ANSWER_BYTES_MAX:
            self.abort()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the reply on."""
        status = self._parser.get_status_code()
        if status < 200:  # Such as 100: the answer is still to come.
            return
        reply = Reply(status, self._headers, b"".join(self._body))
        self._headers, self._body, self._body_bytes = {}, [], 0
        request, self.request = self.request, None
        if request is None or not self._parser.should_keep_alive():
            self.abort()
        if request is not None:
            self.has_served = True
            self._replied(self, request, reply)
