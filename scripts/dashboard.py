"""The Grafana dashboard as a table of panels; `scripts/deploy.py` writes deploy/grafana/evp.json.

A query names metrics as `evp_x{}`: the braces get what was chosen of namespaces and jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

COLUMNS = 24
HEIGHT = 8
STAT_HEIGHT = 4
RATE = "[$__rate_interval]"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = 'namespace=~"$namespace", job=~"$job"'
GREEN, YELLOW, RED = "green", "yellow", "red"

Limits = tuple[tuple[float, str], ...]
"""From which value on there is which colour; below the first one it is green."""


class Query(NamedTuple):
    """What is asked of Prometheus, and how each series is called."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel. `words` are said instead of the numbers from 0 on."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str = ""
    kind: str = "timeseries"
    width: int = 8
    limits: Limits = ()
    words: tuple[tuple[str, str], ...] = ()


class Row(NamedTuple):
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def rate(metric: str, by: str = "", labels: str = "") -> str:
    """Return the sum over all processes of a counter's rate."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate({metric}{{{labels}}}{RATE}))"


def quantiles(histogram: str) -> tuple[Query, ...]:
    """Return the queries for three quantiles of a histogram."""
    buckets = rate(f"{histogram}_bucket", "le")
    return tuple(
        Query(f"histogram_quantile({share}, {buckets})", name)
        for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    )


def mean(histogram: str) -> str:
    """Return the query for the mean of a histogram."""
    return f"{rate(f'{histogram}_sum')} / {rate(f'{histogram}_count')}"


def stat(title: str, unit: str, expr: str, limits: Limits = (), **more: Any) -> Panel:
    """Return a panel with one number."""
    return Panel(title, unit, (Query(expr),), kind="stat", width=3, limits=limits, **more)


ACCEPTED = rate("evp_ingest_events_total", labels='result="accepted"')
GROUP = 'group=~"$group"'
MEMORY_SHARE = "max(evp_stream_memory_bytes{} / evp_stream_memory_limit_bytes{})"


def of_groups(name: str) -> str:
    """Return the query for what waits for each group, in all partitions: everybody tells it."""
    return f"sum by (group) (max by (group, partition) ({name}{{{GROUP}}}))"


ROWS = (
    Row("Now", (
        stat("Accepting", "none", "max(evp_ingest_ready{})", ((0, RED), (1, GREEN)),
            words=(("no", RED), ("yes", GREEN)), about="Any server, as /api/ready tells."),
        stat("On disk", "none", "min(evp_log_durable{})", ((0, RED), (1, GREEN)),
            words=(("no", RED), ("yes", GREEN)),
            about="Whether the log keeps what it acknowledges."),
        stat("Accepted", "cps", ACCEPTED),
        stat("Stored", "cps", rate("evp_events_stored_total")),
        stat("Waiting", "short", f"max({of_groups('evp_stream_lag_events')})",
            about="Events that the group that is furthest behind was not given yet."),
        stat("Behind", "s", f"max(evp_stream_oldest_age_seconds{{{GROUP}}})",
            ((60, YELLOW), (300, RED)), about="Age of the oldest entry that is not acked."),
        stat("Log memory", "percentunit", MEMORY_SHARE, ((0.5, YELLOW), (0.8, RED)),
            about="Of the mark above which events are refused."),
        stat("Workers", "none", "count(evp_store_batch_seconds_count{})", ((0, RED), (1, GREEN)),
            about="Processes of workers that tell metrics."),
    )),
    Row("Events", (
        Panel("Events", "cps", (
            Query(ACCEPTED, "accepted"),
            Query(rate("evp_events_stored_total"), "stored"),
            Query(rate("evp_duplicates_total"), "duplicate"),
            Query(rate("evp_dead_letters_total"), "dead"),
        ), width=12),
        Panel("Answers to POST", "reqps", (
            Query(rate("evp_ingest_requests_total", "code"), "{{code}}"),
        ), "accepted, or the code of docs/ERRORS.md.", width=12),
    )),
    Row("Lag", (
        Panel("Waiting", "short", (
            Query(of_groups("evp_stream_lag_events"), "{{group}}"),
        ), "Events that a group was not given yet."),
        Panel("Behind", "s", (
            Query(f"max by (group) (evp_stream_oldest_age_seconds{{{GROUP}}})", "{{group}}"),
        ), "Age of the oldest entry that a group has not acked."),
        Panel("In the hands of workers", "short", (
            Query(of_groups("evp_stream_pending_events"), "{{group}}"),
        ), "Events that were given and not acked, at most."),
    )),
    Row("Latency", (
        Panel("Until accepted", "s", quantiles("evp_ingest_seconds"),
            "From when an event was taken until the log had it on disk."),
        Panel("One batch into the store", "s", quantiles("evp_store_batch_seconds")),
        Panel("Until stored", "s", quantiles("evp_end_to_end_seconds"),
            "From the log until the outcome was stored."),
    )),
    Row("Refused, dead, and what must not be", (
        Panel("5xx", "reqps", (
            Query(rate("evp_http_problems_total", "code",
                'code=~"ack_unknown|backlog_full|keys_unavailable|log_not_durable|log_unavailable'
                '|server_busy|shutting_down|store_unavailable|too_slow|internal_error"'),
                "{{code}}"),
        ), "Answers of all routes."),
        Panel("Dead letters", "short", (
            Query("sum by (reason) (increase(evp_dead_letters_total{}[1h])) > 0", "{{reason}}"),
        ), "Within an hour, by reason: evp dlq top."),
        Panel("Alarms", "short", (
            Query("sum(increase(evp_entries_deleted_total{}[1h]))", "entries deleted"),
            Query("sum(increase(evp_groups_lost_total{}[1h]))", "groups lost"),
            Query("sum(increase(evp_entries_newer_total{}[1h]))", "entries of a newer evp"),
            Query("sum(increase(evp_frames_seen_before_total{}[1h]))", "frames redelivered"),
        ), "Within an hour. Redelivery is harmless; the others are in docs/OPERATIONS.md."),
    )),
    Row("Log and store", (
        Panel("Memory of the log", "bytes", (
            Query("max by (partition) (evp_stream_memory_bytes{})", "in use, {{partition}}"),
            Query("max by (partition) (evp_stream_memory_limit_bytes{})", "mark, {{partition}}"),
        ), "Of the server that has a partition. Above the mark events are refused."),
        Panel("Engines", "none", (
            Query("min(max by (partition) (evp_log_up{}))", "log answers"),
            Query("min(evp_log_durable{})", "log is durable"),
            Query("max(evp_ingest_backlog_full{})", "backlog full"),
            Query(rate("evp_store_failures_total"), "store failures a second"),
        )),
        Panel("Entries in the stream", "short", (
            Query("sum(max by (partition) (evp_stream_entries{}))", "entries"),
        ), "Those that are done included, for EVP_LOG_RETENTION_S."),
        Panel("Events at once", "short", (
            Query(mean("evp_ingest_frame_events"), "in a frame"),
            Query(mean("evp_store_batch_events"), "in a batch"),
        ), "Means. Both grow with the load."),
        Panel("Busy workers", "short", (
            Query(f"sum(clamp_max({rate('evp_store_batch_seconds_sum', 'instance, process')}, 1))",
                "busy"),
            Query("count(evp_store_batch_seconds_count{})", "there"),
        ), "Processes that write, by seconds of writing in a second: several batches under way are "
            "one. Where both meet, more workers are needed."),
        Panel("Deleted by retention", "cps", (
            Query(rate("evp_events_expired_total"), "events"),
        )),
    )),
    Row("Processes", (
        Panel("Processor", "percentunit", (
            Query(rate("process_cpu_seconds_total", "instance, process"),
                "{{instance}} {{process}}"),
        )),
        Panel("Resident memory", "bytes", (
            Query("process_resident_memory_bytes{}", "{{instance}} {{process}}"),
        )),
        Panel("Versions", "none", (
            Query("count by (version) (evp_build_info{})", "{{version}}"),
        ), "Processes of each; two while an upgrade is under way."),
    )),
)  # fmt: skip
"""Everything on the dashboard, from the top."""


def dashboard() -> dict[str, Any]:
    """Return what Grafana imports."""
    return {
        "title": "evp",
        "uid": "evp",
        "description": "Events accepted, stored and waiting. The same names as docs/METRICS.md.",
        "tags": ["evp"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 41,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "templating": {"list": [_datasource(), *_variables()]},
        "panels": list(_laid_out()),
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource",
            "query": "prometheus"}  # fmt: skip


def _variables() -> Iterator[dict[str, Any]]:
    jobs = 'label_values(evp_build_info{namespace=~"$namespace"}, job)'
    for name, label, query in (
        ("namespace", "Namespaces", "label_values(evp_build_info, namespace)"),
        ("job", "Jobs", jobs),
        ("group", "Groups", f"label_values(evp_stream_lag_events{{{CHOSEN}}}, group)"),
    ):
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            # Also what has no such label: there are namespaces in Kubernetes only.
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }


def _laid_out() -> Iterator[dict[str, Any]]:
    """Give rows and panels with their places, from left to right and downward."""
    number = y = 0
    for row in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}  # fmt: skip
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            number += 1
            height = STAT_HEIGHT if panel.kind == "stat" else HEIGHT
            yield _panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": height})
            x += panel.width
        y += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    steps = [{"color": GREEN, "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in panel.limits]
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {
        "mode": "absolute", "steps": steps}}  # fmt: skip
    if panel.words:
        said = {str(n): {"text": word, "color": c} for n, (word, c) in enumerate(panel.words)}
        defaults["mappings"] = [{"type": "value", "options": said}]
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    if panel.kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 10, "showPoints": "never"}
        options = {"legend": {"displayMode": "list", "placement": "bottom"},
                   "tooltip": {"mode": "multi", "sort": "desc"}}  # fmt: skip
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": _of_chosen(query.expr),
             "legendFormat": query.legend or "__auto"}
            for n, query in enumerate(panel.queries)
        ],
    }  # fmt: skip


def _of_chosen(expr: str) -> str:
    """Return a query that looks at what was chosen only."""
    return expr.replace("{", f"{{{CHOSEN}, ").replace(", }", "}")
