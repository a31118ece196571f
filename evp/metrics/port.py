"""A port for metrics alone, for processes that serve nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any

import uvicorn

from evp.limits import METRICS_CONNECTIONS_MAX, METRICS_KEEP_ALIVE_S
from evp.metrics.exporter import Exporter, may_read

PATH = "/metrics"
_TEXT = "text/plain; charset=utf-8"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to evp."""
        yield


async def tell_metrics(exporter: Exporter, listener: socket.socket, token: str | None) -> None:
    """Answer GET /metrics on a listener, which others may share, until cancelled."""
    server = _Server(
        uvicorn.Config(
            _app(exporter, token),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=METRICS_KEEP_ALIVE_S,
            limit_concurrency=METRICS_CONNECTIONS_MAX,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="metrics")
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = server.force_exit = True
        await serving


def _app(exporter: Exporter, token: str | None) -> Any:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        status, body, content_type = 200, b"", _TEXT
        if scope["path"] != PATH:
            status, body = 404, b"there is /metrics, nothing else\n"
        elif scope["method"] not in {"GET", "HEAD"}:
            status, body = 405, b"this path takes GET\n"
        elif not may_read(token, headers.get(b"authorization")):
            status, body = 401, b"send the token of EVP_METRICS_TOKEN: authorization: Bearer ...\n"
        else:
            body, content_type = await exporter.told(headers.get(b"accept", ""))
        told = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": told})
        await send({"type": "http.response.body", "body": body})

    return app
