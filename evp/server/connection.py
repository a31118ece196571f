"""One HTTP connection within bounds: how many, what beside a body may come, how long, the end.

A subclass of uvicorn's httptools protocol. Requests on a connection are
answered in the order they came; one that can't be read is the last one.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from evp.clock import monotonic_s
from evp.errors import Refusal
from evp.server.answer import REQUEST_ID, Answer, on_the_wire
from evp.server.limits import (
    CONNECTIONS_MAX,
    CONNECTIONS_REFUSED_MAX,
    FILES_KEPT,
    HEADER_BYTES_MAX,
    KEEP_ALIVE_S,
    LINGER_S_MAX,
    REQUEST_READ_S_MAX,
)
from evp.server.problem import fault, note, problem
from evp.server.request import new_id, sane_id

_SWEEP_S = 1.0
#: What is asked for to see what is wrong must be answered when all is taken.
_PROBES = (b"/api/", b"/metrics")


class Connection(HttpToolsProtocol):
    """A connection that counts, keeps time, and ends so that its last answer is seen."""

    connections_max = CONNECTIONS_MAX
    leaving = False
    """Set on the class once its server is about to stop: each answer says that it is the last one
    of its connection, so that clients go elsewhere between two requests, and not in one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The newest request. uvicorn declares it as always there, and starts with None.
        self.cycle: Any = None
        self._active_at_s = monotonic_s()
        self._reading_since_s: float | None = None
        self._in_head = False
        self._offers_upgrade = False
        self._head_bytes = 0
        self._silent = False
        self._silent_bytes = 0
        self._ended = False
        self._last_words = b""
        self._hung_up_at_s: float | None = None
        self._surplus = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; one too many is answered only if it asks how the server is."""
        super().connection_made(transport)
        surplus = len(self.connections) - self.connections_max
        self._surplus = surplus > 0
        if surplus > CONNECTIONS_REFUSED_MAX:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what came in; answer what is no HTTP."""
        if self._ended:
            return
        self.begin_activity()
        head_bytes = self._head_bytes
        self._silent = True
        rest = None
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                rest = memoryview(data)[offer.args[0] :]
            if rest is not None:
                self._read_on(rest)
        except httptools.HttpParserCallbackError as error:
            self.end(_answer_to(error.__context__))
        except httptools.HttpParserError:
            self.end(problem(_not_http()))
        else:
            if self._silent and self._head_bytes == head_bytes:
                self._count_silence(len(data))
            else:
                self._silent_bytes = 0

    def begin_activity(self) -> None:
        """Note that something came."""
        self._active_at_s = monotonic_s()
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()

    def _count_silence(self, size_bytes: int) -> None:
        """Bound what the parser keeps to itself: a header, a trailer, until it is complete."""
        self._silent_bytes += size_bytes
        if self._silent_bytes > HEADER_BYTES_MAX:
            self.end(problem(_headers_too_large()))

    def _read_on(self, rest: memoryview) -> None:
        """Parse what comes after requests that offer another protocol (`Upgrade: h2c`).

        The parser leaves their bodies to that protocol. evp speaks no other one, so
        each of them is parsed once more, without its offer.
        """
        while True:
            if self._offers_upgrade:
                self._offers_upgrade = False
                version = self.parser.get_http_version().encode()
                lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
                lines += [b"%b: %b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
                self.parser.feed_data(b"".join([*lines, b"\r\n"]))
            try:
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
            else:
                return

    def on_message_begin(self) -> None:
        """Start a request. What only an app needs of it is made once it gets there."""
        self.url = b""
        self.headers = []
        self._silent = False
        self._in_head = True
        self._head_bytes = 0
        self._reading_since_s = self._active_at_s

    def on_url(self, url: bytes) -> None:
        """Collect the target, within the limit."""
        self.url += url
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header, within the limit; a trailer is none."""
        if self._in_head:
            self.headers.append((name.lower(), value))
        self._count(len(name) + len(value) + 4)

    def _count(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > HEADER_BYTES_MAX:
            raise _headers_too_large()

    def on_headers_complete(self) -> None:
        """Start the ASGI app on this request, or let it wait for those before it."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._offers_upgrade = True
            return
        if self.parser.get_http_version() not in {"1.0", "1.1"}:
            raise _not_http()
        if not self.url.startswith(b"/"):
            self.url = _origin_form(self.url)
        if self._surplus and not self.url.startswith(_PROBES):
            detail = f"this server has {self.connections_max} connections open"
            raise Refusal("server_busy", detail, retry_after_s=1)
        self._begin_for_app()
        given = next((value for name, value in self.headers if name == REQUEST_ID), None)
        self.scope["state"]["request_id"] = sane_id(given) or new_id()
        # For who waits for a client that takes nothing: closing would wait as well.
        self.scope["state"]["abort"] = self.transport.abort
        self.scope["state"]["is_last"] = self.is_last
        super().on_headers_complete()
        self.cycle.transport = _Closing(self)
        self._in_head = False

    def _begin_for_app(self) -> None:
        """Have uvicorn begin this request, of which it has heard nothing so far."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        super().on_url(url)
        for name, value in headers:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Hand a part of the body to the app."""
        self._silent = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Tell the app that it has the whole body."""
        if not self._offers_upgrade:
            self._reading_since_s = None
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on after an answer of the app."""
        is_last = not self.pipeline
        super().on_response_complete()
        if is_last:
            self._speak_last()

    def end(self, answer: Answer) -> None:
        """Answer what is being read, after what came before it was answered, and hang up."""
        if self._ended:
            return
        self._ended = True
        cycle = self.cycle
        unanswered = cycle is not None and not cycle.response_complete
        in_body = self._reading_since_s is not None and not self._in_head
        if unanswered or not in_body:
            request_id = new_id()
            note(answer, request_id=request_id.decode())
            self._last_words = on_the_wire(answer, request_id, keep_alive=False)
        if in_body:
            # It is the newest request that breaks off. Its app, if it runs already, has to know.
            cycle.disconnected = True
            cycle.message_event.set()
            unanswered = bool(self.pipeline) and self.pipeline[0][0] is cycle
            if unanswered:
                self.pipeline.popleft()
        if not unanswered:
            self._speak_last()

    def _speak_last(self) -> None:
        """Say the last words, if the end was decided and nobody waits for an answer any more."""
        if self._ended and self._hung_up_at_s is None and not self.transport.is_closing():
            self.transport.write(self._last_words)
            self.hang_up()

    def is_last(self) -> bool:
        """Return whether the answer that begins now is to be the last one: none is awaited then."""
        return self.leaving and not self.pipeline and self._reading_since_s is None

    def hang_up(self) -> None:
        """Send nothing more, and close when the client does.

        Closing with bytes unread would reset the connection, and the client could
        lose the answer.
        """
        if self._hung_up_at_s is None and not self.transport.is_closing():
            self._ended = True
            self._hung_up_at_s = monotonic_s()
            self.pipeline.clear()
            self.flow.resume_reading()
            self.transport.write_eof()

    def shutdown(self) -> None:
        """Close after the answers that are due."""
        if self._hung_up_at_s is None:
            super().shutdown()
        else:
            self.transport.close()

    def stop_reading(self, refusal: Refusal) -> None:
        """Refuse the request that is being read, if there is one."""
        if self._reading_since_s is not None:
            self.end(problem(refusal))

    def close_if_late(self, now_s: float) -> None:
        """Close the connection if it idled too long or its request takes too long to come."""
        if self._hung_up_at_s is not None:
            if now_s - self._hung_up_at_s > LINGER_S_MAX:
                self.transport.close()
        elif self._reading_since_s is not None:
            if now_s - self._reading_since_s > REQUEST_READ_S_MAX:
                self.stop_reading(Refusal("request_timeout", "the request took too long to arrive"))
        elif (
            self.cycle is None or self.cycle.response_complete
        ) and now_s - self._active_at_s > KEEP_ALIVE_S:
            self.transport.close()


class _Closing:
    """The transport as uvicorn's cycles see it: to close is to hang up."""

    def __init__(self, connection: Connection) -> None:
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = connection.hang_up


def _headers_too_large() -> Refusal:
    return Refusal("headers_too_large", f"headers may have {HEADER_BYTES_MAX} bytes")


def _not_http() -> Refusal:
    return Refusal("invalid_request", "this is not HTTP/1.1")


def _answer_to(error: BaseException | None) -> Answer:
    """Return the answer after one of the parser's callbacks raised."""
    if isinstance(error, Refusal):
        return problem(error)
    if isinstance(error, httptools.HttpParserError | UnicodeError):
        return problem(Refusal("invalid_request", "the target is no URL"))
    return fault(error)


def _origin_form(target: bytes) -> bytes:
    """Return path and query of a target that is a whole address, as proxies send it."""
    parts = httptools.parse_url(target)
    return (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")


def connections_max() -> int:
    """Return how many connections this process can hold: each takes a file."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(1, min(CONNECTIONS_MAX, files - FILES_KEPT - CONNECTIONS_REFUSED_MAX))


async def sweep(state: ServerState) -> None:
    """Close late connections, once a second: cheaper than a timer for each request."""
    while True:
        await asyncio.sleep(_SWEEP_S)
        now_s = monotonic_s()
        for connection in list(state.connections):
            if isinstance(connection, Connection):
                connection.close_if_late(now_s)
