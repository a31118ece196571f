"""The typed routes, on Litestar: everything but the plain case of the ingest routes.

An ingest request that isn't plain (`evp.server.protocol`) ends up here and goes
through the same `Acceptor.accept`, on raw bytes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Litestar, Request, Response, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from evp.errors import Refusal
from evp.server.accept import Acceptor
from evp.server.answer import Answer
from evp.server.health import Health, HealthCheck
from evp.server.keys import Keys
from evp.server.problem import fault, problem
from evp.server.request import (
    BATCH_PATH,
    EVENT_PATH,
    Bodies,
    body_bytes_max,
    media_of,
    too_large,
)

_CLOSE = ((b"connection", b"close"),)

AnyRequest = Request[Any, Any, State]


class _ClientGone(Exception):
    """Raised when the client left before its body was there."""


@post([EVENT_PATH.decode(), BATCH_PATH.decode()])
async def ingest(request: AnyRequest, state: State) -> Response[bytes]:
    """Take one event, or a batch."""
    acceptor: Acceptor = state.acceptor
    keys: Keys = state.api_keys
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
        body = await _read(request, path, state.bodies)
    except Refusal as refusal:
        answer = problem(refusal)
        # The body may still be on its way; nothing after it could be told apart.
        return _response(answer._replace(headers=answer.headers + _CLOSE))
    except _ClientGone:
        return Response(b"", status_code=400)
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def respond(answer: Answer) -> None:
        if not answered.done():
            answered.set_result(answer)

    acceptor.accept(body, media, respond)
    return _response(await answered)


@get("/api/live", sync_to_thread=False)
def live() -> dict[str, str]:
    """Tell that the process runs."""
    return {"status": "live"}


@get("/api/ready", sync_to_thread=False)
def ready(state: State) -> Response[bytes] | Response[dict[str, str]]:
    """Tell whether events are accepted now, and if not, why."""
    refusal: Refusal | None = state.acceptor.refusal
    if state.draining.is_set():
        refusal = Refusal("shutting_down", "this server is stopping")
    if refusal is not None:
        return _response(problem(refusal))
    return Response({"status": "ready"})


@get("/api/health")
async def health(state: State) -> Response[Health]:
    """Tell how the server and the engines are."""
    check: HealthCheck = state.health
    found = await check.look()
    down = found.status == "down"
    return Response(found, status_code=HTTP_503_SERVICE_UNAVAILABLE if down else HTTP_200_OK)


def build_app(
    acceptor: Acceptor, keys: Keys, bodies: Bodies, check: HealthCheck, draining: asyncio.Event
) -> Litestar:
    """Return the ASGI app. `draining` is set when the server is about to stop."""
    return Litestar(
        route_handlers=[ingest, live, ready, health],
        state=State(
            {
                "acceptor": acceptor,
                "api_keys": keys,
                "bodies": bodies,
                "health": check,
                "draining": draining,
            },
            deep_copy=False,
        ),
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
        openapi_config=None,
        # Bodies are counted while they are read, with a limit for each route.
        request_max_body_size=None,
        logging_config=None,
    )


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


def _response(answer: Answer) -> Response[bytes]:
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(
        answer.body,
        status_code=answer.status,
        media_type=headers.pop("content-type"),
        headers=headers,
    )


def _http_error(_request: AnyRequest, error: HTTPException) -> Response[bytes]:
    if isinstance(error, NotFoundException):
        return _response(problem(Refusal("not_found", "there is nothing at this path")))
    if isinstance(error, MethodNotAllowedException):
        allowed = (error.headers or {}).get("allow", "")
        answer = problem(Refusal("method_not_allowed", f"this path takes {allowed}"))
        return _response(answer._replace(headers=(*answer.headers, (b"allow", allowed.encode()))))
    return _response(problem(Refusal("invalid_request", error.detail)))


def _unexpected(_request: AnyRequest, error: Exception) -> Response[bytes]:
    return _response(fault(error))
