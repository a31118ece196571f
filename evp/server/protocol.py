"""The plain case of POST /events and /events/batch, answered without ASGI.

A request is *plain* if its length is known and allowed, its key is right, its
body is events as they are, it comes from no page in a browser and expects
nothing, no other request is under way on its connection and its client takes the
answers. Then its body goes straight to the acceptor
and the answer straight to the socket, at about half the cost. Where its head is
that of an earlier one (`evp.server.repeated`), it is not even parsed. Everything
else is handed on untouched.

To uvicorn a plain request under way looks like one of its own cycles, so its
handling of pipelined requests, lost connections and shutdown holds for both.
"""

from __future__ import annotations

from typing import Any

from evp.cloudevents import REQUIRED_HEADERS
from evp.codec import Media
from evp.errors import Refusal
from evp.limits import KIB
from evp.scopes import INGEST
from evp.server.accept import Acceptor
from evp.server.answer import REQUEST_ID, Answer, on_the_wire
from evp.server.connection import Connection, connections_max
from evp.server.keys import Grant, Keys
from evp.server.problem import note
from evp.server.repeated import RepeatedHead, head_of
from evp.server.request import (
    BATCH_PATH,
    EVENT_PATH,
    Bodies,
    body_bytes_max,
    header_twice,
    media_of,
    new_id,
    sane_id,
)

_NOT_PLAIN = REQUIRED_HEADERS | {
    b"content-encoding",
    b"transfer-encoding",
    b"expect",
    b"upgrade",
    b"origin",
}
#: A small body that will be refused is read all the same: that is cheaper than a new connection.
_READ_IF_REFUSED_BYTES_MAX = 64 * KIB
#: A client whose heads differ so often is not compared any more.
_HEADS_MISSED_MAX = 3


class _Nobody:
    """Stands where uvicorn's cycles have an event that their task waits for."""

    def set(self) -> None:
        """Do nothing."""


_NOBODY_WAITS = _Nobody()


class PlainCycle:
    """A plain request under way, with the parts of a cycle that uvicorn looks at."""

    message_event = _NOBODY_WAITS
    more_body = True
    disconnected = False
    response_complete = False
    held_bytes = 0
    request_id: bytes | None = None
    """As the client gave it; otherwise one is made with the answer."""

    def __init__(self, media: Media, size_bytes: int, grant: Grant, *, keep_alive: bool) -> None:
        self.media = media
        self.size_bytes = size_bytes
        self.grant = grant
        self.keep_alive = keep_alive
        self.body: list[bytes] = []


class IngestProtocol(Connection):
    """One connection. What it needs of its server is set on a subclass for each server."""

    acceptor: Acceptor
    keys: Keys
    bodies: Bodies

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._plain: PlainCycle | None = None
        self._head: RepeatedHead | None = None
        self._heads_missed = 0
        self._parsed: PlainCycle | None = None

    def data_received(self, data: bytes) -> None:
        """Take a request that repeats the head of an earlier one; parse anything else."""
        cycle = self.cycle
        between = (
            (cycle is None or cycle.response_complete)
            and self._reading_since_s is None
            and not (self._ended or self._surplus or self.flow.write_paused)
        )
        if between and self._head is not None and self._take_repeated(self._head, data):
            return
        self._parsed = None
        super().data_received(data)
        parsed = self._parsed
        if between and parsed is not None and self._heads_missed < _HEADS_MISSED_MAX:
            self._head = head_of(data, self.url, parsed.media, parsed.grant)

    def _take_repeated(self, head: RepeatedHead, data: bytes) -> bool:
        """Take what came if it is one whole request with this head, which was plain before."""
        body = head.body_of(data) if head.grant.lives else None
        if body is None:
            self._head = None
            self._heads_missed += 1
            return False
        self.url = head.path
        if not self._is_wanted(len(body), head.grant):
            return False
        self.begin_activity()
        self._silent_bytes = 0
        self.cycle = cycle = PlainCycle(head.media, len(body), head.grant, keep_alive=True)
        cycle.more_body = False
        self._accept(cycle, body)
        return True

    def on_headers_complete(self) -> None:
        """Decide whether this request is plain."""
        cycle = self.cycle
        if (
            (self.url == EVENT_PATH or self.url == BATCH_PATH)  # noqa: PLR1714 - measured
            and (cycle is None or cycle.response_complete)
            and not self.flow.write_paused
            and not self._surplus
        ):
            plain = self._plain_cycle()
            if plain is not None:
                self._in_head = False
                self._plain = self.cycle = plain
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        cycle = self._plain
        if cycle is None:
            super().on_body(body)
        else:
            self._silent = False
            if len(body) != cycle.size_bytes:
                # A small one mostly comes in one piece, and waits for nothing.
                self.bodies.hold(len(body))
                cycle.held_bytes += len(body)
            cycle.body.append(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what has come of a body."""
        if self._plain is not None:
            self.bodies.release(self._plain.held_bytes)
            self._plain = None
        super().connection_lost(exc)

    def on_message_complete(self) -> None:
        """Hand a plain request to the acceptor."""
        cycle = self._plain
        if cycle is None:
            super().on_message_complete()
            return
        self._reading_since_s = None
        self._plain = None
        cycle.more_body = False
        if cycle.held_bytes:
            self.bodies.release(cycle.held_bytes)
        body = cycle.body[0] if len(cycle.body) == 1 else b"".join(cycle.body)
        cycle.body = []
        # Of a client that numbers its requests no head comes again.
        self._parsed = cycle if cycle.keep_alive and cycle.request_id is None else None
        self._accept(cycle, body)

    def _accept(self, cycle: PlainCycle, body: bytes) -> None:
        def respond(answer: Answer) -> None:
            self._respond(cycle, answer)

        limit = cycle.grant.limit
        if limit is None:
            self.acceptor.accept(body, cycle.media, respond)
        elif (refusal := limit.refusal()) is not None:
            respond(self.acceptor.refused(refusal))
        else:
            limit.spend(self.acceptor.accept(body, cycle.media, respond))

    def _plain_cycle(self) -> PlainCycle | None:
        """Return the cycle of a plain request, None for every other one."""
        headers = dict(self.headers)
        length = headers.get(b"content-length")
        if length is None or not length.isdigit() or not _NOT_PLAIN.isdisjoint(headers):
            return None
        if len(headers) != len(self.headers) and header_twice(self.headers):
            return None
        if self.parser.get_method() != b"POST" or self.parser.get_http_version() != "1.1":
            return None
        try:
            grant = self.keys.grant_of(headers.get(b"x-api-key"))
            grant.require(INGEST)
            media = media_of(self.url, headers.get(b"content-type"))
        except Refusal:
            return None
        size_bytes = int(length)
        if not self._is_wanted(size_bytes, grant):
            return None
        cycle = PlainCycle(media, size_bytes, grant, keep_alive=self.parser.should_keep_alive())
        if REQUEST_ID in headers:
            # Of several the first, as for the app.
            given = next(value for name, value in self.headers if name == REQUEST_ID)
            cycle.request_id = sane_id(given)
        return cycle

    def _is_wanted(self, size_bytes: int, grant: Grant) -> bool:
        """Return whether a body is to be read; not if it is too large, or large and refused."""
        if size_bytes <= _READ_IF_REFUSED_BYTES_MAX:
            return True
        if size_bytes > body_bytes_max(self.url):
            return False
        paced = grant.limit is None or grant.limit.refusal() is None
        return paced and self.acceptor.refusal_of(size_bytes) is None

    def _respond(self, cycle: PlainCycle, answer: Answer) -> None:
        cycle.response_complete = True
        transport = self.transport
        if cycle.disconnected or transport.is_closing():
            return
        if self.leaving and self.is_last():
            cycle.keep_alive = False
        request_id = cycle.request_id or new_id()
        if answer.error is not None:
            note(answer, request_id=request_id.decode())
        transport.write(on_the_wire(answer, request_id, keep_alive=cycle.keep_alive))
        self.server_state.total_requests += 1
        if not cycle.keep_alive:
            self.hang_up()
        elif self.pipeline:
            self.flow.resume_reading()
            waiting, app = self.pipeline.pop()
            self._start_asgi_task(waiting, app)
        elif self._ended:
            self._speak_last()


def protocol_class(acceptor: Acceptor, keys: Keys, bodies: Bodies) -> type[IngestProtocol]:
    """Return the protocol of one server, for `uvicorn.Config(http=…)`."""
    shared = {
        "acceptor": acceptor,
        "keys": keys,
        "bodies": bodies,
        "connections_max": connections_max(),
    }
    return type("BoundIngestProtocol", (IngestProtocol,), shared)
