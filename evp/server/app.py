"""The typed routes, on Litestar: everything but the plain case of the ingest routes."""

from __future__ import annotations

from litestar import Litestar, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException

from evp.errors import Refusal
from evp.server.parts import AnyRequest, Parts, response
from evp.server.problem import fault, problem
from evp.server.routes import ingest, metrics, probes

ROUTES = (
    *ingest.ROUTES,
    *probes.ROUTES,
    *metrics.ROUTES,
)


def build_app(parts: Parts) -> Litestar:
    """Return the ASGI app."""
    return Litestar(
        route_handlers=list(ROUTES),
        state=State({"parts": parts}, deep_copy=False),
        exception_handlers={
            Refusal: _refused,
            HTTPException: _http_error,
            Exception: _unexpected,
        },
        openapi_config=None,
        # Bodies are counted while they are read, with a limit for each route.
        request_max_body_size=None,
        logging_config=None,
    )


def _refused(_request: AnyRequest, error: Refusal) -> Response[bytes]:
    return response(problem(error))


def _http_error(_request: AnyRequest, error: HTTPException) -> Response[bytes]:
    if isinstance(error, NotFoundException):
        return response(problem(Refusal("not_found", "there is nothing at this path")))
    if isinstance(error, MethodNotAllowedException):
        allowed = (error.headers or {}).get("allow", "")
        answer = problem(Refusal("method_not_allowed", f"this path takes {allowed}"))
        return response(answer._replace(headers=(*answer.headers, (b"allow", allowed.encode()))))
    return response(problem(Refusal("invalid_request", error.detail)))


def _unexpected(_request: AnyRequest, error: Exception) -> Response[bytes]:
    return response(fault(error))
