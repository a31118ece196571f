"""What holds for every request that the app answers, whatever its route.

An answer has the id of its request, which stands in evp's log as well, and the
headers that keep browsers and caches from harm. A request that could be read in
two ways, or asks for too much to be parsed, is refused before any route sees it.
"""

from __future__ import annotations

from typing import cast

from litestar.types import ASGIApp, Message, Receive, Scope, Send

from evp.logs import of_request
from evp.server.answer import CLOSE, REQUEST_ID, SAFE, Answer
from evp.server.cors import Cors, preflight
from evp.server.problem import note, problem
from evp.server.request import header_twice, target_too_large

#: Of every answer whose route says nothing else.
_UNLESS_SET = (*SAFE, (b"cache-control", b"no-store"))
_ASKS_FIRST = b"access-control-request-method"
_ENDLESS = b"text/event-stream"
_ASKED_HEADERS = b"access-control-request-headers"


class Guard:
    """The app behind a guard; an ASGI app itself."""

    def __init__(self, app: ASGIApp, cors: Cors) -> None:
        self._app = app
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request_id: bytes = scope["state"]["request_id"]
        of_request(request_id.decode())
        headers = dict(scope["headers"])
        path, origin = scope["path"], headers.get(b"origin")
        added = ((REQUEST_ID, request_id), *self._cors.headers_of(path, origin))

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = list(message["headers"])
                names = {name for name, _ in own}
                missing = [header for header in _UNLESS_SET if header[0] not in names]
                last = CLOSE if scope["state"]["is_last"]() else ()
                message["headers"] = [*own, *missing, *added, *last]
            await send(message)

        refusal = header_twice(scope["headers"]) or target_too_large(
            scope["raw_path"], scope["query_string"]
        )
        if refusal is not None:
            answer = problem(refusal)
            await _send(answer.plus(CLOSE), send_on)
        elif (
            scope.get("method") == "OPTIONS"
            and _ASKS_FIRST in headers
            and self._cors.allows(path, origin)
        ):
            await _send(preflight(headers.get(_ASKED_HEADERS)), send_on)
        elif scope.get("method") == "HEAD":
            # The server sends no body after it, and what would never end need not begin.
            headers_left = [pair for pair in scope["headers"] if _ENDLESS not in pair[1]]
            changed = {**scope, "method": "GET", "headers": headers_left}
            await self._app(cast("Scope", changed), receive, send_on)
        else:
            await self._app(scope, receive, send_on)


async def _send(answer: Answer, send: Send) -> None:
    """Send a whole answer."""
    if answer.error is not None:
        note(answer)
    headers = list(answer.headers)
    if answer.body:
        headers.append((b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
