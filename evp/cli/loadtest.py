"""`evp loadtest`: load, sent when it is due, and followed to the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from evp.limits import (
    BATCH_EVENTS_MAX,
    EVENT_BYTES_MAX,
    LOADTEST_CONNECTIONS_MAX,
    LOADTEST_EPS_MAX,
    LOADTEST_NAMES_MAX,
    LOADTEST_PROCESSES_MAX,
)

_Eps = Annotated[float, typer.Option(min=0.01, max=LOADTEST_EPS_MAX, help="Events a second.")]
_Saturate = Annotated[
    bool,
    typer.Option("--saturate", help="No rate: each connection sends again once it is answered."),
]
_Batch = Annotated[
    int, typer.Option(min=1, max=BATCH_EVENTS_MAX, help="Events a request; 1 goes to /events.")
]
_Connections = Annotated[
    int, typer.Option(min=1, max=LOADTEST_CONNECTIONS_MAX, help="Connections, all together.")
]
_Processes = Annotated[
    int, typer.Option(min=1, max=LOADTEST_PROCESSES_MAX, help="Generator processes.")
]
_Verify = Annotated[
    bool, typer.Option("--verify", help="Look up every accepted event in the store: there, once.")
]
_Threshold = Annotated[
    Optional[list[str]],
    typer.Option(
        help="A bound such as 'p99<50ms' or 'lost==0', which looks events up as well; "
        "exit 99 if one is missed."
    ),
]


def loadtest(
    eps: _Eps = 1000,
    saturate: _Saturate = False,
    duration: Annotated[str, typer.Option(help="How long: 500ms, 10s, 5m, 1h.")] = "10s",
    warmup: Annotated[str, typer.Option(help="Load before that does not count.")] = "0s",
    batch: _Batch = 100,
    connections: _Connections = 64,
    processes: _Processes = 1,
    file: Annotated[
        Optional[Path],
        typer.Option("--input", help="NDJSON; its events take turns, each with an id of its own."),
    ] = None,
    types: Annotated[
        int, typer.Option(min=1, max=LOADTEST_NAMES_MAX, help="Types of made events.")
    ] = 8,
    users: Annotated[
        int, typer.Option(min=1, max=LOADTEST_NAMES_MAX, help="Users in them.")
    ] = 1000,
    skew: Annotated[
        float,
        typer.Option(min=0, max=4, help="How uneven types and users are (Zipf); 0: all alike."),
    ] = 1.0,
    payload_bytes: Annotated[
        int, typer.Option(min=1, max=EVENT_BYTES_MAX // 2, help="Bytes of data in each, about.")
    ] = 100,
    url: Annotated[Optional[str], typer.Option(help="Address of the server.")] = None,
    key: Annotated[Optional[str], typer.Option(help="API key.")] = None,
    accept_only: Annotated[
        bool, typer.Option("--accept-only", help="Don't look at log and store.")
    ] = False,
    verify: _Verify = False,
    threshold: _Threshold = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Load a server and measure until its events are stored.

    Requests start when they are due, and latencies count from then: a stall shows. The events
    stay in the store, with the source evp-loadtest-RUN. Ctrl-C ends the load early; what was
    sent is still told. Exit 1 if any event was refused, unsent, unanswered, lost or doubled.

    Examples: evp loadtest --eps 20000 --duration 30s --verify;
    evp loadtest --saturate --batch 1 --threshold 'p99<50ms' --threshold 'unsent==0'
    """
    from evp.cli import loading
    from evp.cli.context import run, sending_key, server_url, start
    from evp.loadtest.plan import Plan, Shape

    bounds, verify = loading.bounds(threshold or [], accept_only=accept_only, verify=verify)
    duration_s, warmup_s = loading.spans(duration, warmup)
    settings = start()
    plan = Plan(
        url=server_url(settings, url),
        eps=None if saturate else eps,
        duration_s=duration_s,
        warmup_s=warmup_s,
        batch=batch,
        connections=max(connections, processes),
        processes=processes,
        shape=Shape(types, users, skew, payload_bytes),
        lines=loading.given_lines(file) if file else [],
        verify=verify,
    )
    secret = sending_key(settings, key)
    report = run(loading.load(plan, secret, None if accept_only else settings, bounds))
    loading.print_report(report, json=json)
    raise typer.Exit(report.exit_code)
