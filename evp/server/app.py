"""The typed routes, on Litestar: everything but the plain case of the ingest routes."""

from __future__ import annotations

from litestar import Litestar, Response
from litestar.datastructures import State
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)
from litestar.status_codes import HTTP_500_INTERNAL_SERVER_ERROR

from evp.errors import Refusal, StoreUnavailable
from evp.server.parts import AnyRequest, Parts, response
from evp.server.problem import fault, problem, store_away
from evp.server.routes import (
    analytics,
    auth,
    dashboard,
    dead_letters,
    documents,
    events,
    ingest,
    live,
    metrics,
    probes,
)

ROUTES = (
    *ingest.ROUTES,
    *probes.ROUTES,
    *documents.ROUTES,
    *auth.ROUTES,
    *events.ROUTES,
    *analytics.ROUTES,
    *metrics.ROUTES,
    *live.ROUTES,
    *dead_letters.ROUTES,
    *dashboard.ROUTES,
)


def build_app(parts: Parts) -> Litestar:
    """Return the ASGI app."""
    return Litestar(
        route_handlers=list(ROUTES),
        state=State({"parts": parts, "handlers": ROUTES}, deep_copy=False),
        exception_handlers={
            Refusal: _refused,
            StoreUnavailable: _store_away,
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


def _store_away(_request: AnyRequest, error: StoreUnavailable) -> Response[bytes]:
    return response(problem(store_away(error)))


def _http_error(_request: AnyRequest, error: HTTPException) -> Response[bytes]:
    if isinstance(error, NotFoundException):
        return response(problem(Refusal("not_found", "there is nothing at this path")))
    if isinstance(error, MethodNotAllowedException):
        methods = (error.headers or {}).get("allow", "").split(", ")
        # The guard makes a GET of each HEAD.
        allowed = ", ".join([*methods, "HEAD"] if "GET" in methods else methods)
        answer = problem(Refusal("method_not_allowed", f"this path takes {allowed}"))
        return response(answer.plus(((b"allow", allowed.encode()),)))
    if isinstance(error, ValidationException):
        return response(problem(_invalid_query(error)))
    if error.status_code >= HTTP_500_INTERNAL_SERVER_ERROR:
        return response(fault(error))
    return response(problem(Refusal("invalid_request", error.detail)))


def _invalid_query(error: ValidationException) -> Refusal:
    """Return the refusal of parameters that are not what their handler takes."""
    told = []
    for row in error.extra if isinstance(error.extra, list) else ():
        # Other texts repeat what was sent.
        said = row["message"] if row["message"].startswith("Expected ") else "no such value"
        told.append(f"{row.get('key', 'a parameter')}: {said}")
    return Refusal("invalid_query", "; ".join(told) or "a parameter has a wrong value")


def _unexpected(_request: AnyRequest, error: Exception) -> Response[bytes]:
    return response(fault(error))
