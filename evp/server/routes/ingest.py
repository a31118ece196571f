"""POST /events and /events/batch, where the request is not plain (`evp.server.protocol`).

Whatever the shape of the events, they end in the same `Acceptor`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, NamedTuple
from urllib.parse import parse_qsl

from litestar import Response, post
from litestar.params import QueryParameter
from litestar.status_codes import HTTP_202_ACCEPTED, HTTP_500_INTERNAL_SERVER_ERROR

from evp.cloudevents import decode_binary
from evp.codec import Media, decode
from evp.errors import Refusal
from evp.scopes import INGEST
from evp.server.accept import Acceptor, Respond
from evp.server.access import require_key
from evp.server.answer import CLOSE, Answer, Headers
from evp.server.body import read_body
from evp.server.encoding import encoding_of, unpack
from evp.server.limits import BODY_INLINE_BYTES_MAX
from evp.server.parts import AnyRequest, Parts, parts_of, response
from evp.server.request import (
    BATCH_PATH,
    EVENT_PATH,
    Hold,
    body_bytes_max,
    media_of_request,
    too_large,
)
from evp.server.told import tell_event, telling


class _Asked(NamedTuple):
    """What the query of a batch asks for: to leave out bad events, to be told all ids."""

    skips: bool = False
    with_ids: bool = False


_VALUES = {"on_error": {"refuse": False, "skip": True}, "ids": {"0": False, "1": True}}
_ON_ERROR = QueryParameter(
    description="What a bad event does: refuse the batch, the default, or skip just that event.",
    enum=tuple(_VALUES["on_error"]),
)
_IDS = QueryParameter(
    description="1 to be told the `_id` of each event.", enum=tuple(_VALUES["ids"])
)


@post(EVENT_PATH.decode(), status_code=HTTP_202_ACCEPTED)
async def post_event(request: AnyRequest) -> Response[bytes]:
    """Take one event."""
    return await _take(request, EVENT_PATH)


@post(BATCH_PATH.decode(), status_code=HTTP_202_ACCEPTED)
async def post_batch(
    request: AnyRequest,
    on_error: Annotated[str | None, _ON_ERROR] = None,  # noqa: ARG001 - for the documents alone:
    ids: Annotated[str | None, _IDS] = None,  # noqa: ARG001 - `_asked` reads both, after the key
) -> Response[bytes]:
    """Take a batch of events: all or none, or with `on_error=skip` those that are good."""
    return await _take(request, BATCH_PATH)


async def _take(request: AnyRequest, path: bytes) -> Response[bytes]:
    parts = parts_of(request)
    acceptor = parts.acceptor
    headers: Headers = tuple(request.scope["headers"])
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def respond(answer: Answer) -> None:
        if not answered.done():
            answered.set_result(answer)

    with Hold(parts.bodies) as hold:
        try:
            grant = require_key(request, INGEST)
            asked = _asked(path, request.scope["query_string"])
            encoding = encoding_of(headers)
            media = media_of_request(path, headers)
            _refuse_unread(acceptor, path, dict(headers).get(b"content-length", b"0"))
            body = await read_body(request, body_bytes_max(path), hold)
        except Refusal as refusal:
            answer = acceptor.refused(refusal)
            # The body may still be on its way; nothing after it could be told apart.
            return response(answer.plus(CLOSE))
        try:
            if encoding is not None:
                most_bytes = body_bytes_max(path)
                body = await unpack(body, encoding, most_bytes, hold, parts.bodies.threads)
            # Many may have come at once, and been let in by their heads.
            grant.require_pace()
            grant.spend(await _hand_on(parts, headers, body, media, asked, respond))
        except Refusal as refusal:
            grant.spend(0)
            return response(acceptor.refused(refusal))
    return response(await answered)


async def _hand_on(
    parts: Parts, headers: Headers, body: bytes, media: Media, asked: _Asked, respond: Respond
) -> int:
    """Hand what a request holds to the acceptor; return how many events. Raises Refusal."""
    acceptor = parts.acceptor
    if media is Media.BINARY:
        _refuse_full(acceptor, len(body))
        return acceptor.take(decode_binary(headers, body), tell_event, respond, batch=False)
    if any(asked):
        return await _take_as_asked(parts, body, media, asked, respond)
    return acceptor.accept(body, media, respond)


async def _take_as_asked(
    parts: Parts, body: bytes, media: Media, asked: _Asked, respond: Respond
) -> int:
    """Hand a batch to the acceptor, or what is good of it; return how many. Raises Refusal."""
    acceptor = parts.acceptor
    _refuse_full(acceptor, len(body))
    tell = telling({}, skips=asked.skips, with_ids=asked.with_ids)
    try:
        return acceptor.take(decode(body, media), tell, respond, batch=True)
    except Refusal as refusal:
        if not asked.skips or refusal.status >= HTTP_500_INTERNAL_SERVER_ERROR:
            raise
    if len(body) <= BODY_INLINE_BYTES_MAX:
        sifted = acceptor.sift(body, media)
    else:
        async with parts.bodies.threads:
            sifted = await asyncio.to_thread(acceptor.sift, body, media)
        _refuse_full(acceptor, len(body))
    tell = telling(sifted.rejected, skips=True, with_ids=asked.with_ids)
    return acceptor.take(sifted.decoded, tell, respond, batch=True)


def _asked(path: bytes, query: bytes) -> _Asked:
    """Return what a query asks for. Raises Refusal `invalid_query`."""
    found: dict[str, bool] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if path != BATCH_PATH:
            raise Refusal("invalid_query", "this path takes no parameters")
        if name not in _VALUES:
            raise Refusal("invalid_query", f"the parameters here are {' and '.join(_VALUES)}")
        if name in found or value not in _VALUES[name]:
            choices = " or ".join(_VALUES[name])
            raise Refusal("invalid_query", f"{name} is given once, and is {choices}")
        found[name] = _VALUES[name][value]
    return _Asked(found.get("on_error", False), found.get("ids", False))


def _refuse_unread(acceptor: Acceptor, path: bytes, length: bytes) -> None:
    """Raise Refusal if a body of the length that is announced can't be taken."""
    size_bytes = int(length) if length.isdigit() else 0
    most_bytes = body_bytes_max(path)
    if size_bytes > most_bytes:
        raise too_large(most_bytes)
    _refuse_full(acceptor, size_bytes)


def _refuse_full(acceptor: Acceptor, size_bytes: int) -> None:
    refusal = acceptor.refusal_of(size_bytes)
    if refusal is not None:
        raise refusal


ROUTES = (post_event, post_batch)
