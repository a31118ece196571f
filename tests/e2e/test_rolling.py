"""Servers replaced under load, one by one: no request fails, and no event is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from evp.engines.engine import free_port
from tests.e2e.commands import Background, background
from tests.support.balancer import Balancer, balancing, is_ready
from tests.support.wait import until

SWITCHES = int(os.environ.get("EVP_ROLLING_SWITCHES", "3"))
BATCH = int(os.environ.get("EVP_ROLLING_BATCH", "5"))
"""Switches, and events a request. `make rolling` has twenty; single events want a quiet machine."""

EVENTS_PER_S = 5_000
CONNECTIONS = 32
LOAD = (
    *("--eps", str(EVENTS_PER_S), "--batch", str(BATCH), "--connections", str(CONNECTIONS)),
    *("--duration", "1h", "--verify", "--json"),
)
START_S_MAX = 60.0
STOP_S_MAX = 30.0
STORED_S_MAX = 600.0


class Rolling:
    """Servers that come and go. `balancer` leads to them."""

    def __init__(self, environ: dict[str, str], folder: Path, ends: contextlib.ExitStack) -> None:
        self.urls: list[str] = []
        self.codes: list[int] = []
        """How those that are gone ended."""
        self._environ = environ
        self._folder = folder
        self._ends = ends
        self._newest: Background

    async def start(self) -> str:
        """Start one more server; return its address once it is ready."""
        port = free_port()
        self.urls.append(f"http://127.0.0.1:{port}")
        self._newest = self._ends.enter_context(
            background(
                *("serve", "--port", str(port)),
                environ=self._environ,
                cwd=self._folder,
                name=f"serve-{len(self.urls)}",
            )
        )
        url = self.urls[-1]
        await until(lambda: is_ready(url), what=f"{url} is ready", within_s=START_S_MAX)
        return url

    async def switch(self, balancer: Balancer) -> None:
        """Put a new server beside the old one, then tell the old one to stop, and see it off."""
        old = self._newest
        new_url = await self.start()
        balancer.servers = self.urls[-2:]
        old.process.send_signal(signal.SIGTERM)
        ended = await asyncio.to_thread(old.wait, STOP_S_MAX)
        self.codes.append(ended.code)
        assert balancer.leads_to == new_url


@pytest.mark.slow
@pytest.mark.timeout(STORED_S_MAX + SWITCHES * 60)
async def test_servers_are_replaced_under_load(shared: dict[str, str], tmp_path: Path) -> None:
    """Behind a balancer that goes by /api/ready no request fails, and each event is stored once."""
    environ = shared | {"EVP_DRAIN_DELAY_MS": "1000"}
    with contextlib.ExitStack() as ends:
        ends.enter_context(background("work", environ=environ, cwd=tmp_path, name="work"))
        servers = Rolling(environ, tmp_path, ends)
        async with balancing(await servers.start()) as balancer:
            flags = ("loadtest", *LOAD, "--url", balancer.url)
            load = ends.enter_context(
                background(*flags, environ=environ, cwd=tmp_path, name="load")
            )
            await until(
                lambda: balancer.connections >= CONNECTIONS,
                what="the load has begun",
                within_s=START_S_MAX,
            )
            for _ in range(SWITCHES):
                await servers.switch(balancer)
            load.process.send_signal(signal.SIGINT)
            await asyncio.to_thread(load.wait, STORED_S_MAX)
        assert balancer.switches == SWITCHES
    report: dict[str, Any] = json.loads(load.text)
    sys.stderr.write(f"{SWITCHES} switches: {facts(report)}\n")
    assert servers.codes == [0] * SWITCHES
    assert report["retried"] == report["rejected"] == {}
    assert report["unanswered"] == 0
    assert report["accepted"] == report["requests"] * BATCH > 0
    assert (report["check"]["lost"], report["check"]["doubled"]) == (0, 0)


def facts(report: dict[str, Any]) -> dict[str, Any]:
    """Return what a person wants to know who runs this by hand (`pytest -s`)."""
    wanted = ("requests", "accepted", "unsent", "late", "accepted_per_s", "accept_ms", "check")
    return {name: report[name] for name in wanted}
