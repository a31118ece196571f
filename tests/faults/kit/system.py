"""The system under test: a log, a store, servers, workers, and a proxy on each way between them.

    server ──▶ log      server ──▶ store      worker ──▶ log      worker ──▶ store

Everything is a process of its own, ended with this one, by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from evp.engines.engine import free_port
from evp.stream.client import Link
from evp.stream.info import LogFacts, log_facts
from evp.stream.keys import Keys
from tests.support.proxy import Network, Proxy, proxying
from tests.support.servers import Server, obedient_store, own_log, own_store
from tests.support.up import EVP, clean_environ

KEY = "fault-key"
DATABASE = "faults"
STREAM = "evp:events"
_END_S_MAX = 15.0


class EvpProcess:
    """One `evp` in the background, to be killed, paused and started again at will."""

    def __init__(
        self, name: str, *arguments: str, environ: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.output = folder / f"{name}.out"
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at_s = 0.0
        self._arguments = arguments
        self._environ = environ
        self._folder = folder

    def start(self) -> None:
        """Start it; what it prints is added to its output."""
        tether = [sys.executable, "-m", "evp.engines.tether", str(os.getpid())]
        self.started_at_s = time.monotonic()
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*tether, str(int(signal.SIGKILL)), *EVP, *self._arguments],
                cwd=self._folder,
                env=dict(self._environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """True while it has not ended."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Process id of the one that was started last."""
        assert self.process is not None
        return self.process.pid

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        text = self.output.read_text(errors="replace") if self.output.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def stop(self) -> int:
        """Ask it to end, and wait; returns its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as `kill -9` does."""
        self._end(signal.SIGKILL)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it from running for a while; its connections stay open."""
        assert self.process is not None
        process = self.process
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def _end(self, number: int) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(_END_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(_END_S_MAX)


class System:
    """All of it. `victims` are the processes by name; `network` the proxies between them."""

    def __init__(
        self, folder: Path, log: Server, store: Server, network: Network, environ: dict[str, str]
    ) -> None:
        self.folder = folder
        self.log = log
        self.store = store
        self.network = network
        self.environ = environ
        """Settings of a command that talks to the engines directly."""
        self.group = "evp-workers-group"
        self.complaints: list[str] = []
        """What was seen to go wrong meanwhile."""
        self.ports: list[int] = []
        self.victims: dict[str, EvpProcess | Server] = {"log": log, "store": store}
        self.turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Held by what is being done to a victim, or to all of a kind."""

    @property
    def urls(self) -> list[str]:
        """Addresses of the servers."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def named(self, kind: str) -> list[EvpProcess]:
        """Return the servers or the workers."""
        return [
            one
            for name, one in self.victims.items()
            if isinstance(one, EvpProcess) and name.startswith(kind)
        ]

    def add(self, kind: str, *arguments: str, **changes: str) -> EvpProcess:
        """Start one more `server` or `worker`, which sees the engines through its proxies."""
        name = f"{kind}-{len(self.named(kind)) + 1}"
        environ = self.environ | changes
        for asked, setting in (("log", "EVP_REDIS_URL"), ("store", "EVP_MONGO_URL")):
            if (kind, asked) in self.network.proxies:
                environ[setting] = self.network.proxies[kind, asked].url
        process = EvpProcess(name, *arguments, environ=environ, folder=self.folder)
        process.start()
        self.victims[name] = process
        return process

    def add_server(self) -> EvpProcess:
        """Start one more server, on a port that stays its own."""
        port = free_port()
        self.ports.append(port)
        return self.add("server", "serve", "--port", str(port))

    def add_worker(self, **changes: str) -> EvpProcess:
        """Start one more worker."""
        return self.add("worker", "work", **changes)

    def add_all(self, servers: int, workers: int) -> None:
        """Start so many servers and workers."""
        for _ in range(servers):
            self.add_server()
        for _ in range(workers):
            self.add_worker()

    async def facts(self) -> LogFacts:
        """Return where the log and its groups stand. Raises LogUnavailable."""
        link = await Link.open(self.log.url)
        try:
            return await log_facts(link, Keys(STREAM))
        finally:
            await link.close()

    async def is_drained(self) -> bool:
        """Return True if everything was delivered and acked. Raises LogUnavailable."""
        groups = (await self.facts()).groups
        return bool(groups) and not any(one.pending or one.lag_events for one in groups)

    def heal(self) -> None:
        """Let everything pass and run."""
        self.network.heal()
        for victim in self.victims.values():
            if not victim.running:
                victim.start()

    def end(self) -> None:
        """End everything that runs: workers and servers first."""
        for process in reversed(list(self.victims.values())):
            process.kill()

    def evp(self, *arguments: str, within_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, without proxies in between."""
        return subprocess.run(
            [*EVP, *arguments],
            env=self.environ,
            cwd=self.folder,
            capture_output=True,
            timeout=within_s,
            check=False,
            text=True,
        )


def environ_of(log_url: str, store_url: str, folder: Path, **settings: str) -> dict[str, str]:
    """Return the environment of all that runs in a system."""
    return clean_environ(
        EVP_REDIS_URL=log_url,
        EVP_MONGO_URL=store_url,
        EVP_MONGO_DB=DATABASE,
        EVP_API_KEYS=KEY,
        EVP_DATA_DIR=str(folder / "data"),
        EVP_CONSUMER_NAME="worker",
        EVP_READ_BLOCK_MS="500",
        EVP_DRAIN_DELAY_MS="0",
        EVP_WRITE_TIMEOUT_MS="3000",
        EVP_CLAIM_IDLE_MS="10000",
        **settings,
    )


@contextlib.asynccontextmanager
async def running_system(
    folder: Path,
    *,
    servers: int,
    workers: int,
    seed: int = 0,
    obedient: bool = False,
    proxied: bool = True,
    **settings: str,
) -> AsyncIterator[System]:
    """Run a system in a folder; whatever was done to it, nothing is left at the end.

    An `obedient` store takes fault commands and can step down. One that is not `proxied`
    has no network between its parts: what is done to that can't be done to it.
    """
    log = await asyncio.to_thread(own_log, folder)
    store = await asyncio.to_thread(obedient_store if obedient else own_store, folder)
    environ = environ_of(log.url, store.url, folder, **settings)
    async with contextlib.AsyncExitStack() as stack:
        proxies: dict[tuple[str, str], Proxy] = {}
        for number, kind in enumerate(("server", "worker") if proxied else ()):
            for name, url in (("log", log.url), ("store", store.url)):
                proxies[kind, name] = await stack.enter_async_context(
                    proxying(url, seed * 4 + number)
                )
        system = System(folder, log, store, Network(proxies), environ)
        stack.callback(system.end)
        await asyncio.to_thread(log.start)
        await asyncio.to_thread(store.start)
        system.add_all(servers, workers)
        yield system
