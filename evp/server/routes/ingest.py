"""POST /events and /events/batch, where the request is not plain (`evp.server.protocol`).

It goes through the same `Acceptor.accept`, on raw bytes.
"""

from __future__ import annotations

import asyncio

from litestar import Response, post

from evp.errors import Refusal
from evp.server.answer import Answer
from evp.server.parts import AnyRequest, parts_of, response
from evp.server.request import (
    BATCH_PATH,
    EVENT_PATH,
    Bodies,
    body_bytes_max,
    media_of,
    too_large,
)

_CLOSE = ((b"connection", b"close"),)


class _ClientGone(Exception):
    """Raised when the client left before its body was there."""


@post([EVENT_PATH.decode(), BATCH_PATH.decode()])
async def ingest(request: AnyRequest) -> Response[bytes]:
    """Take one event, or a batch."""
    parts = parts_of(request)
    acceptor, keys = parts.acceptor, parts.keys
    path = request.scope["path"].encode()
    headers = dict(request.scope["headers"])
    try:
        keys.name_of(headers.get(b"x-api-key"))
        _refuse_encoding(headers.get(b"content-encoding"))
        media = media_of(path, headers.get(b"content-type"))
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > body_bytes_max(path):
            raise too_large(path)
        closed = acceptor.refusal_of(int(length) if length.isdigit() else 0)
        if closed is not None:
            raise closed
        body = await _read(request, path, parts.bodies)
    except Refusal as refusal:
        answer = acceptor.refused(refusal)
        # The body may still be on its way; nothing after it could be told apart.
        return response(answer._replace(headers=answer.headers + _CLOSE))
    except _ClientGone:
        return Response(b"", status_code=400)
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def respond(answer: Answer) -> None:
        if not answered.done():
            answered.set_result(answer)

    acceptor.accept(body, media, respond)
    return response(await answered)


async def _read(request: AnyRequest, path: bytes, bodies: Bodies) -> bytes:
    """Return the body. Raises Refusal as soon as it or all together are too large, _ClientGone."""
    most = body_bytes_max(path)
    body = bytearray()
    held_bytes = 0
    try:
        while True:
            message = await request.receive()
            if message["type"] != "http.request":
                raise _ClientGone
            part = message["body"]
            bodies.hold(len(part))
            held_bytes += len(part)
            body += part
            if len(body) > most:
                raise too_large(path)
            if not message["more_body"]:
                return bytes(body)
    finally:
        bodies.release(held_bytes)


def _refuse_encoding(encoding: bytes | None) -> None:
    if encoding is not None and encoding.strip().lower() != b"identity":
        raise Refusal("unsupported_encoding", "send the body without a content-encoding")


ROUTES = (ingest,)
