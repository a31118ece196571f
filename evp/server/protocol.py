"""The plain case of POST /events and /events/batch, answered without ASGI.

A subclass of uvicorn's httptools protocol. A request is *plain* if its length
is known and allowed, its key is right, it has no encoding and expects nothing,
and no other request is under way on its connection. Then its body goes straight
to the acceptor and the answer straight to the socket, at about half the cost.
Everything else is handed on untouched.

To uvicorn a plain request under way looks like one of its own cycles, so its
handling of pipelined requests, lost connections and shutdown holds for both.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from evp.clock import monotonic_s
from evp.codec import Media
from evp.errors import Refusal
from evp.limits import HEADER_BYTES_MAX, KEEP_ALIVE_S, REQUEST_READ_S_MAX
from evp.logs import get
from evp.server.accept import Acceptor
from evp.server.answer import Answer, on_the_wire
from evp.server.keys import Keys
from evp.server.problem import problem
from evp.server.request import BATCH_PATH, EVENT_PATH, body_bytes_max, media_of

_SWEEP_S = 1.0
_log = get("evp.server")
_NOT_PLAIN = frozenset((b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"))


class PlainCycle:
    """A plain request under way, with the parts of a cycle that uvicorn looks at."""

    __slots__ = (
        "body",
        "disconnected",
        "keep_alive",
        "media",
        "message_event",
        "more_body",
        "response_complete",
    )

    def __init__(self, media: Media, *, keep_alive: bool) -> None:
        self.media = media
        self.keep_alive = keep_alive
        self.body: list[bytes] = []
        self.more_body = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY_WAITS


class _Nobody:
    """Stands where uvicorn's cycles have an event that their task waits for."""

    def set(self) -> None:
        """Do nothing."""


_NOBODY_WAITS = _Nobody()


class IngestProtocol(HttpToolsProtocol):
    """One connection. `acceptor` and `keys` are set on a subclass for each server."""

    acceptor: Acceptor
    keys: Keys

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plain: PlainCycle | None = None
        # uvicorn declares it as always there, and starts with None.
        self.cycle: Any = None
        self._header_bytes = 0
        self._active_at_s = monotonic_s()
        self._reading_since_s: float | None = None

    def data_received(self, data: bytes) -> None:
        """Parse what came in; answer what is no HTTP."""
        self._active_at_s = monotonic_s()
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        except httptools.HttpParserCallbackError as error:
            self._end(_refusal_of(error.__context__))
        except httptools.HttpParserError:
            self._end(Refusal("invalid_request", "this is not HTTP/1.1"))

    def on_message_begin(self) -> None:
        """Start a request."""
        super().on_message_begin()
        self._header_bytes = 0
        self._reading_since_s = self._active_at_s

    def on_url(self, url: bytes) -> None:
        """Collect the target, within the limit."""
        super().on_url(url)
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header, within the limit."""
        super().on_header(name, value)
        self._count_header(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """Decide whether this request is plain."""
        cycle = self.cycle
        if (self.url == EVENT_PATH or self.url == BATCH_PATH) and (  # noqa: PLR1714 - measured
            cycle is None or cycle.response_complete
        ):
            media = self._plain_media()
            if media is not None:
                self._plain = self.cycle = PlainCycle(
                    media, keep_alive=self.parser.should_keep_alive()
                )
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        if self._plain is None:
            super().on_body(body)
        else:
            self._plain.body.append(body)

    def on_message_complete(self) -> None:
        """Hand a plain request to the acceptor."""
        self._reading_since_s = None
        cycle = self._plain
        if cycle is None:
            super().on_message_complete()
            return
        self._plain = None
        cycle.more_body = False
        body = cycle.body[0] if len(cycle.body) == 1 else b"".join(cycle.body)
        cycle.body = []

        def respond(answer: Answer) -> None:
            self._respond(cycle, answer)

        self.acceptor.accept(body, cycle.media, respond)

    def _plain_media(self) -> Media | None:
        """Return the media of a plain request, None for every other one."""
        key = content_type = length = None
        for name, value in self.headers:
            if name == b"content-type":
                content_type = value
            elif name == b"content-length":
                length = value
            elif name == b"x-api-key":
                key = value
            elif name in _NOT_PLAIN:
                return None
        if length is None or not length.isdigit() or int(length) > body_bytes_max(self.url):
            return None
        if self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return None
        try:
            self.keys.name_of(key)
            return media_of(self.url, content_type)
        except Refusal:
            return None

    def _respond(self, cycle: PlainCycle, answer: Answer) -> None:
        cycle.response_complete = True
        transport = self.transport
        if cycle.disconnected or transport.is_closing():
            return
        transport.write(on_the_wire(answer, keep_alive=cycle.keep_alive))
        self.server_state.total_requests += 1
        if not cycle.keep_alive:
            transport.close()
        elif self.pipeline:
            self.flow.resume_reading()
            waiting, app = self.pipeline.pop()
            self._start_asgi_task(waiting, app)

    def _count_header(self, size_bytes: int) -> None:
        self._header_bytes += size_bytes
        if self._header_bytes > HEADER_BYTES_MAX:
            raise _HeadersTooLarge

    def _end(self, refusal: Refusal) -> None:
        """Answer and close: what follows on this connection can't be trusted."""
        self._plain = None
        self._reading_since_s = None
        if not self.transport.is_closing():
            self.transport.write(on_the_wire(problem(refusal), keep_alive=False))
            self.transport.close()

    def close_if_late(self, now_s: float) -> None:
        """Close the connection if it idled too long or its request takes too long to come."""
        if self._reading_since_s is not None:
            if now_s - self._reading_since_s > REQUEST_READ_S_MAX:
                self._end(Refusal("request_timeout", "the request took too long to arrive"))
        elif (
            self.cycle is None or self.cycle.response_complete
        ) and now_s - self._active_at_s > KEEP_ALIVE_S:
            self.transport.close()


class _HeadersTooLarge(Exception):
    """Raised inside the parser's callbacks to stop it."""


def _refusal_of(error: BaseException | None) -> Refusal:
    """Return how to answer after one of the parser's callbacks raised."""
    if isinstance(error, _HeadersTooLarge):
        return Refusal("headers_too_large", f"headers may have {HEADER_BYTES_MAX} bytes")
    if isinstance(error, httptools.HttpParserError | UnicodeError):
        return Refusal("invalid_request", "the target is no URL")
    _log.error("unexpected error in a request", exc_info=error)
    return Refusal("internal_error", "evp failed; the log of the server says why")


def protocol_class(acceptor: Acceptor, keys: Keys) -> type[IngestProtocol]:
    """Return the protocol of one server, for `uvicorn.Config(http=…)`."""
    return type("BoundIngestProtocol", (IngestProtocol,), {"acceptor": acceptor, "keys": keys})


async def sweep(state: ServerState) -> None:
    """Close late connections, once a second: cheaper than a timer for each request."""
    while True:
        await asyncio.sleep(_SWEEP_S)
        now_s = monotonic_s()
        for connection in list(state.connections):
            if isinstance(connection, IngestProtocol):
                connection.close_if_late(now_s)
