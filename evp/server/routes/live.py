"""GET /live: how everything stands, once, or each second as an event stream."""

from __future__ import annotations

import asyncio
from functools import partial

from litestar import Response, get
from litestar.types import ASGIApp, HTTPResponseBodyEvent, Receive, Scope, Send

from evp.clock import monotonic_s
from evp.errors import Refusal
from evp.logs import get as log_of
from evp.scopes import READ
from evp.server.access import require, require_read
from evp.server.limits import LIVE_AGAIN_S, LIVE_END_S_MAX, LIVE_OVERDUE_S_MAX, LIVE_STALL_S_MAX
from evp.server.live import Viewer
from evp.server.parts import AnyRequest, parts_of
from evp.server.queries import check_names
from evp.signals import end

_EVENT_STREAM = "text/event-stream"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # A proxy that buffers would hold back what is new.
    (b"x-accel-buffering", b"no"),
]
_log = log_of("evp.server")


@get("/live", before_request=require_read)
async def live(request: AnyRequest) -> ASGIApp:
    """Tell how everything stands; whoever accepts an event stream is told each second."""
    check_names(request, ())
    if _EVENT_STREAM in request.headers.get("accept", ""):
        return partial(_stream, request)
    found = await parts_of(request).live.once()
    return Response(found).to_asgi_response(app=None, request=request)


async def _stream(request: AnyRequest, _scope: Scope, receive: Receive, send: Send) -> None:
    """Send an event stream until its viewer leaves, or may watch no more, or the server stops."""
    watched = parts_of(request).live
    with watched.viewer() as viewer:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        pieces = asyncio.create_task(_send_pieces(request, viewer, watched.history(), send))
        leaving = asyncio.create_task(_until_gone(receive))
        # One that takes nothing does not hear that it is over.
        over = asyncio.create_task(viewer.over.wait())
        try:
            await asyncio.wait({pieces, leaving, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(pieces, leaving, over)
        error = None if pieces.cancelled() else pieces.exception()
        if error is not None and not isinstance(error, TimeoutError):
            raise error
    await _finish(request, send)


async def _finish(request: AnyRequest, send: Send) -> None:
    """Send the end of a stream, and cut the connection of whoever takes nothing."""
    last: HTTPResponseBodyEvent = {"type": "http.response.body", "body": b"", "more_body": False}
    try:
        async with asyncio.timeout(LIVE_END_S_MAX):
            await send(last)
    except TimeoutError:
        _log.warning("a viewer is given up that takes nothing")
        request.scope["state"]["abort"]()
        # It goes nowhere: so uvicorn learns that this answer is over.
        await send(last)


async def _send_pieces(request: AnyRequest, viewer: Viewer, first: bytes, send: Send) -> None:
    """Send what is new at the pace of the viewer, until it is over or may watch no more.

    Raises TimeoutError if the viewer takes nothing.
    """
    piece: bytes | None = first
    ask_at_s = monotonic_s() + LIVE_AGAIN_S
    while piece is not None:
        async with asyncio.timeout(LIVE_STALL_S_MAX):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if monotonic_s() >= ask_at_s:
            try:
                await require(request, READ, LIVE_OVERDUE_S_MAX)
            except Refusal as refusal:
                _log.debug("a viewer may watch no more", reason=refusal.detail)
                return
            ask_at_s = monotonic_s() + LIVE_AGAIN_S
        piece = await viewer.next()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


ROUTES = (live,)
