"""One server process: built, run, and stopped so that nobody notices.

The end, in order: not ready (a balancer turns away), no new connections, what
is in flight answered, the open frame flushed, the ledger recorded, exit 0. All
of it has a deadline; then whoever still waits is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Generator

import uvicorn

from evp.errors import EngineFailed, LogUnavailable, Refusal, StoreUnavailable
from evp.limits import KEEP_ALIVE_S, LEDGER_RECORD_S, SERVER_STORE_CONNECTIONS_MAX
from evp.logs import get
from evp.server.accept import Acceptor
from evp.server.app import build_app
from evp.server.connection import Connection, sweep
from evp.server.health import HealthCheck
from evp.server.keys import Keys
from evp.server.protocol import protocol_class
from evp.server.request import Bodies
from evp.settings import Settings
from evp.signals import Signals, end
from evp.storage.client import Database, close, connect, database, ping
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
    bodies = Bodies()
    draining = asyncio.Event()
    check = HealthCheck(acceptor, lambda: ping(db))
    server = Server(
        uvicorn.Config(
            build_app(acceptor, keys, bodies, check, draining),
            http=protocol_class(acceptor, keys, bodies),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )
    stopping = asyncio.create_task(_stop(signals, server, acceptor, draining, settings))
    tasks = [
        asyncio.create_task(sweep(server.server_state)),
        asyncio.create_task(_keep_ledger(db, settings, acceptor)),
    ]
    await acceptor.start()
    # What is there from the start stays: looking through it again and again costs 40 ms each time.
    gc.collect()
    gc.freeze()
    host, port = listener.getsockname()[:2]
    _log.info("serving", host=host, port=port, accepting=acceptor.refusal is None)
    try:
        await server.serve(sockets=[listener])
        if not server.started:
            raise EngineFailed("the server did not start")
    finally:
        ending = asyncio.create_task(_wind_up(db, settings, acceptor))
        await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await end(ending, stopping, *tasks)
        for task in (ending, stopping, *tasks):
            if not task.cancelled() and task.exception() is not None:
                _log.error("unexpected error", exc_info=task.exception())
        await acceptor.close()
        for connection in list(server.server_state.connections):
            connection.transport.close()
        await close(client)
    _log.info("stopped")


async def _stop(
    signals: Signals,
    server: Server,
    acceptor: Acceptor,
    draining: asyncio.Event,
    settings: Settings,
) -> None:
    """On a signal stop being ready, then stop. Returns when time is up, or at a second signal."""
    await signals.get()
    _log.info("stopping: no longer ready")
    draining.set()
    told_again = await _comes(signals, settings.drain_delay_ms / 1000)
    server.should_exit = True
    if not told_again:
        await _comes(signals, settings.shutdown_timeout_s)
    await acceptor.close()
    for connection in list(server.server_state.connections):
        if isinstance(connection, Connection):
            connection.stop_reading(Refusal("shutting_down", "this server is stopping"))
    server.force_exit = True


async def _comes(signals: Signals, within_s: float) -> bool:
    """Return whether a signal comes in time."""
    try:
        async with asyncio.timeout(within_s):
            await signals.get()
    except TimeoutError:
        return False
    return True


async def _wind_up(db: Database, settings: Settings, acceptor: Acceptor) -> None:
    """Answer what was taken, and record for good how far this process got."""
    await acceptor.drain()
    with contextlib.suppress(StoreUnavailable, LogUnavailable):
        await _record(db, settings, acceptor, for_good=True)


async def _keep_ledger(db: Database, settings: Settings, acceptor: Acceptor) -> None:
    """Record in the store how far this process got; failing to never blocks a 202."""
    while True:
        await asyncio.sleep(LEDGER_RECORD_S)
        try:
            await _record(db, settings, acceptor)
        except (StoreUnavailable, LogUnavailable) as error:
            _log.debug("ledger not recorded", reason=str(error))


async def _record(
    db: Database, settings: Settings, acceptor: Acceptor, *, for_good: bool = False
) -> None:
    """Record epochs in the store; the log then need not keep those that will not grow."""
    closed, open_ = acceptor.epochs()
    rows = [(one.srv, one.acknowledged_seq, one.events) for one in closed + open_]
    await record_servers(db, rows)
    done = closed + open_ if for_good else closed
    await forget_epochs(settings.redis_url, StreamKeys(settings.stream), done)
    acceptor.forget(closed)
