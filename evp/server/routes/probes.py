"""Whether this server lives, is ready, and is well: for balancers, and for people."""

from __future__ import annotations

from litestar import Response, get
from litestar.status_codes import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE
from msgspec import Struct

from evp.errors import Refusal
from evp.scopes import READ
from evp.server.access import require
from evp.server.health import Health
from evp.server.parts import AnyRequest, parts_of, response
from evp.server.problem import problem


class Status(Struct):
    """What anyone may know of a server's health: ok, degraded or down."""

    status: str


@get("/api/live", sync_to_thread=False)
def live() -> dict[str, str]:
    """Tell that the process runs."""
    return {"status": "live"}


@get("/api/ready")
async def ready(request: AnyRequest) -> Response[bytes] | Response[dict[str, str]]:
    """Tell whether events are accepted now, and if not, why; details to those who may read."""
    parts = parts_of(request)
    refusal = parts.acceptor.refusal
    if parts.draining.is_set():
        refusal = Refusal("shutting_down", "this server is stopping")
    if refusal is not None:
        if refusal.code == "log_unavailable" and not await _may_read(request):
            # What is wrong may name the log's address.
            refusal = Refusal(refusal.code, "the log can't be reached", retry_after_s=1)
        return response(problem(refusal))
    return Response({"status": "ready"})


@get("/api/health")
async def health(request: AnyRequest) -> Response[Health] | Response[Status]:
    """Tell how the server and the engines are; the details to those who may read."""
    found = await parts_of(request).health.look()
    down = found.status == "down"
    code = HTTP_503_SERVICE_UNAVAILABLE if down else HTTP_200_OK
    if await _may_read(request):
        return Response(found, status_code=code)
    return Response(Status(found.status), status_code=code)


async def _may_read(request: AnyRequest) -> bool:
    try:
        await require(request, READ)
    except Refusal:
        return False
    return True


ROUTES = (live, ready, health)
