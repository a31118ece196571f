"""One server process: built, run, and stopped so that nobody notices.

The end, in order: not ready (a balancer turns away) and each answer the last one
of its connection (clients move on), no new connections, what is in flight
answered, the open frame flushed, the ledger recorded, exit 0. All of it has a
deadline; then whoever still waits is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Generator
from functools import partial

import uvicorn

from evp.balance import look_once
from evp.errors import EngineFailed, Refusal
from evp.logs import get
from evp.machine import settle_memory
from evp.metrics.board import Place
from evp.metrics.exporter import Exporter
from evp.metrics.families import Values
from evp.server.accept import Acceptor
from evp.server.app import build_app
from evp.server.connection import Connection, sweep
from evp.server.cors import Cors
from evp.server.guard import Guard
from evp.server.health import HealthCheck
from evp.server.keys import Keys
from evp.server.keywatch import KeyWatch
from evp.server.lane import Lane
from evp.server.ledger import Ledger, Ledgers
from evp.server.letters import Letters
from evp.server.limits import KEEP_ALIVE_S, SERVER_STORE_CONNECTIONS_MAX
from evp.server.live import Live
from evp.server.parts import Parts
from evp.server.people import People
from evp.server.problem import PROBLEMS
from evp.server.protocol import IngestProtocol, protocol_class
from evp.server.reading import Reading
from evp.server.request import Bodies
from evp.settings import Settings
from evp.signals import Signals, end
from evp.storage.client import close, connect, database, ping
from evp.storage.partitions import known_partitions
from evp.stream.gauges import LogGauges

_log = get("evp.server")


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, which would end in an exit code of 143."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals to evp."""
        yield


async def serve(
    settings: Settings, listener: socket.socket, signals: Signals, place: Place | None = None
) -> None:
    """Serve on a bound socket until a signal comes; a second one forces the end.

    `place` is where this process shares its metrics with others of the same parent.
    Raises EngineFailed if the server does not start. An engine that is away is
    no reason: readiness tells.
    """
    client = connect(settings, connections_max=SERVER_STORE_CONNECTIONS_MAX)
    db = database(client, settings.mongo_db)
    acceptor = Acceptor(settings, partial(known_partitions, db))
    ledger = Ledgers(settings, db, acceptor.lanes, lambda: acceptor.announcer.partitions)
    keys = Keys(settings.api_keys, complete=False)
    key_watch = KeyWatch(settings, db, keys)
    bodies = Bodies()
    # Every command that serves sets a secret; without one, tokens are good in this process only.
    people = People(db, settings.jwt_secret or secrets.token_urlsafe())
    reading = Reading(settings)
    draining = asyncio.Event()
    check = HealthCheck(acceptor, lambda: ping(db), lambda: look_once(settings, db))
    gauges = LogGauges(settings)
    exporter = Exporter("serve-1", partial(_counted, acceptor), gauges.look, place)
    live = Live(settings, reading, draining)
    letters = Letters(settings, reading, draining)
    parts = Parts(
        settings, acceptor, keys, bodies, check, people, reading, exporter, live, letters, draining
    )
    protocol = protocol_class(acceptor, keys, bodies)
    server = Server(
        uvicorn.Config(
            Guard(build_app(parts), Cors(settings.cors_origins)),
            http=protocol,
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
    stopping = asyncio.create_task(_stop(signals, server, protocol, acceptor, draining, settings))
    helpers = [asyncio.create_task(one) for one in (sweep(server.server_state), exporter.run())]
    await asyncio.gather(acceptor.start(), key_watch.start())
    ledger.start()
    settle_memory()
    host, port = listener.getsockname()[:2]
    _log.info("serving", host=host, port=port, accepting=acceptor.refusal is None)
    try:
        await server.serve(sockets=[listener])
        if not server.started:
            raise EngineFailed("the server did not start")
    finally:
        ending = asyncio.create_task(_wind_up(acceptor, ledger))
        await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await end(ending, stopping, *helpers)
        await ledger.stop()
        await key_watch.stop()
        await check.close()
        people.close()
        await live.close()
        await letters.close()
        await reading.close()
        await gauges.close()
        for task in (ending, stopping, *helpers):
            if not task.cancelled() and task.exception() is not None:
                _log.error("unexpected error", exc_info=task.exception())
        await acceptor.close()
        for connection in list(server.server_state.connections):
            connection.transport.close()
        await close(client)
    _log.info("stopped")


def _counted(acceptor: Acceptor) -> Values:
    return {**acceptor.values(), "evp_http_problems_total": dict(PROBLEMS)}


async def _stop(
    signals: Signals,
    server: Server,
    protocol: type[IngestProtocol],
    acceptor: Acceptor,
    draining: asyncio.Event,
    settings: Settings,
) -> None:
    """On a signal stop being ready, then stop. Returns when time is up, or at a second signal."""
    await signals.get()
    _log.info("stopping: no longer ready")
    draining.set()
    protocol.leaving = True
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


async def _wind_up(acceptor: Acceptor, ledger: Ledgers) -> None:
    """Answer what was taken, and record for good how far this process got."""
    acceptor.refuse_new()
    # A partition that hangs must not keep what others got to from being recorded.
    await asyncio.gather(
        *(_wind_up_one(lane, one) for lane, one in zip(acceptor.lanes, ledger.each, strict=True))
    )


async def _wind_up_one(lane: Lane, ledger: Ledger) -> None:
    await lane.drain()
    await ledger.close()
