"""GET /analytics/metrics: sums over any range of time."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import get
from litestar.params import QueryParameter

from evp.clock import now_ms
from evp.server.access import require_read
from evp.server.analytics import AnalyticsMetrics, answer_of, span_of
from evp.server.parts import AnyRequest, parts_of
from evp.server.queries import check_names


@get("/analytics/metrics", before_request=require_read)
async def analytics_metrics(
    request: AnyRequest,
    from_: Annotated[
        str,
        QueryParameter(
            name="from", description="where the span begins: RFC 3339, `now`, or `now-90m` (smhd)"
        ),
    ] = "now-1h",
    to: Annotated[str, QueryParameter(description="where it ends, in the same way")] = "now",
    interval: Annotated[
        Literal["1m", "5m", "1h", "1d"] | None,
        QueryParameter(description="how wide a step is; unasked one that gives up to 300 steps"),
    ] = None,
    group_by: Annotated[
        Literal["type", "source"] | None,
        QueryParameter(description="what each step is divided by as well"),
    ] = None,
) -> AnalyticsMetrics:
    """Sum up the events of a span of time: in all, by type, by source, step by step."""
    check_names(request, ("from", "to", "interval", "group_by"))
    span = span_of(from_, to, interval, now_ms())
    reading = parts_of(request).reading
    found = await reading.metrics(span.first_ms, span.end_ms, span.step_ms, group_by)
    return answer_of(span, found, group_by)


ROUTES = (analytics_metrics,)
