"""One server process: built, run, and stopped so that nobody notices.

The end, in order: not ready (a balancer turns away), no new connections, what
is in flight answered, the open frame flushed, the ledger recorded, exit 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator

import uvicorn

from evp.errors import EngineFailed, LogUnavailable, StoreUnavailable
from evp.limits import KEEP_ALIVE_S, LEDGER_RECORD_S, SERVER_STORE_CONNECTIONS_MAX
from evp.logs import get
from evp.server.accept import Acceptor
from evp.server.app import build_app
from evp.server.health import HealthCheck
from evp.server.keys import Keys
from evp.server.protocol import protocol_class, sweep
from evp.settings import Settings
from evp.signals import Signals
from evp.storage.client import Database, connect, database, ping
from evp.storage.ledger import record_servers
from evp.stream.keys import Keys as StreamKeys
from evp.stream.ledger import forget_epochs

_log = get("evp.server")


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, which would end in an exit code of 143."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to evp."""
        yield


async def serve(settings: Settings, listener: socket.socket, signals: Signals) -> None:
    """Serve on a bound socket until a signal comes; a second one forces the end.

    Raises EngineFailed if the server does not start. An engine that is away is
    no reason: readiness tells.
    """
    client = connect(settings, connections_max=SERVER_STORE_CONNECTIONS_MAX)
    db = database(client, settings.mongo_db)
    acceptor = Acceptor(settings)
    keys = Keys(settings.api_keys)
    draining = asyncio.Event()
    check = HealthCheck(acceptor, lambda: ping(db))
    server = Server(
        uvicorn.Config(
            build_app(acceptor, keys, check, draining),
            http=protocol_class(acceptor, keys),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
        )
    )
    tasks = [
        asyncio.create_task(_drain_on_signal(signals, server, draining, settings.drain_delay_ms)),
        asyncio.create_task(sweep(server.server_state)),
        asyncio.create_task(_keep_ledger(db, settings, acceptor)),
    ]
    await acceptor.start()
    host, port = listener.getsockname()[:2]
    _log.info("serving", host=host, port=port, accepting=acceptor.refusal is None)
    try:
        await server.serve(sockets=[listener])
        if not server.started:
            raise EngineFailed("the server did not start")
    finally:
        for task in tasks:
            task.cancel()
        await acceptor.close()
        with contextlib.suppress(StoreUnavailable, LogUnavailable):
            await _record(db, settings, acceptor)
        await client.close()
    _log.info("stopped")


async def _drain_on_signal(
    signals: Signals, server: Server, draining: asyncio.Event, delay_ms: int
) -> None:
    """On the first signal stop being ready, then stop; on the second stop at once."""
    await signals.get()
    _log.info("stopping: no longer ready")
    draining.set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(delay_ms / 1000):
            await signals.get()
            server.force_exit = True
    server.should_exit = True
    await signals.get()
    server.force_exit = True


async def _keep_ledger(db: Database, settings: Settings, acceptor: Acceptor) -> None:
    """Record in the store how far this process got; failing to never blocks a 202."""
    while True:
        await asyncio.sleep(LEDGER_RECORD_S)
        try:
            await _record(db, settings, acceptor)
        except (StoreUnavailable, LogUnavailable) as error:
            _log.debug("ledger not recorded", reason=str(error))


async def _record(db: Database, settings: Settings, acceptor: Acceptor) -> None:
    closed, open_ = acceptor.epochs()
    rows = [(one.srv, one.acknowledged_seq, one.events) for one in closed + open_]
    await record_servers(db, rows)
    acceptor.forget(closed)
    await forget_epochs(settings.redis_url, StreamKeys(settings.stream), closed)
