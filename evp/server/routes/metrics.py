"""GET /metrics: what is counted, for Prometheus."""

from __future__ import annotations

from litestar import Response, get

from evp.errors import Refusal
from evp.metrics.exporter import may_read
from evp.server.parts import AnyRequest, parts_of


@get("/metrics")
async def metrics(request: AnyRequest) -> Response[bytes]:
    """Tell what was counted, as Prometheus or OpenMetrics text."""
    parts = parts_of(request)
    if not may_read(parts.settings.metrics_token, request.headers.get("authorization")):
        raise Refusal("unauthenticated", "send the metrics token: authorization: Bearer …")
    body, content_type = await parts.exporter.told(request.headers.get("accept", ""))
    # As a header: to a media type that is a text, Litestar would add its charset once more.
    return Response(body, headers={"content-type": content_type})


ROUTES = (metrics,)
