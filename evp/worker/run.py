"""One worker process: its clients, its signals, its end; a loop for each partition between."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from evp.batch.retry import Backoff
from evp.errors import StoreUnavailable
from evp.limits import GIVE_BACK_S_MAX
from evp.logs import get
from evp.machine import settle_memory
from evp.metrics.board import Place
from evp.metrics.exporter import Exporter
from evp.settings import Settings
from evp.signals import Signals, end
from evp.storage import schema
from evp.storage.client import CLOSE_S_MAX, Database, close, connect, database
from evp.storage.groups import become_writer
from evp.stream.gauges import LogGauges
from evp.worker.following import Following
from evp.worker.journal import Journal, Journals
from evp.worker.partition import Job, work_on
from evp.worker.quiet import Quiet
from evp.worker.registered import RegisteredGroups
from evp.worker.upkeep import StoreUpkeep

Tell = Callable[[Exporter], Coroutine[Any, Any, None]]
"""Tells metrics to whoever asks for them, until cancelled."""

_log = get("evp.worker")


async def work(
    settings: Settings,
    signals: Signals,
    *,
    in_flight: int = 2,
    burst: bool = False,
    take_over: bool = False,
    place: Place | None = None,
    tell: Tell | None = None,
) -> None:
    """Work until a signal comes; with `burst`, until all partitions are drained.

    Metrics are shared at `place` with other processes of the same parent, and told by `tell`.
    Outages of the engines, at the start too, are waited out. After a signal the
    batches in hand are finished or given back within SHUTDOWN_TIMEOUT_S; a second
    signal ends it at once. Raises WritingGroupTaken if another group writes to
    this database and not `take_over`, at the start or later.
    """
    stop = asyncio.Event()
    # What remains after it is for giving the batch back and for taking leave of the store.
    patience_s = max(0.1, settings.shutdown_timeout_s - GIVE_BACK_S_MAX - CLOSE_S_MAX)
    client = connect(settings)
    journals = Journals(settings.rss_log_events)
    gauges = LogGauges(settings)
    exporter = Exporter("work-1", journals.values, gauges.look, place)
    telling = [asyncio.create_task(exporter.run())]
    telling += [asyncio.create_task(tell(exporter))] if tell is not None else []
    try:
        db = database(client, settings.mongo_db)
        running = asyncio.create_task(
            _work(settings, db, stop, journals, in_flight, burst=burst, take_over=take_over)
        )
        await _end_in_time(running, signals, stop, patience_s)
    finally:
        await end(*telling)
        for task in telling:
            if not task.cancelled() and task.exception() is not None:
                _log.error("unexpected error in metrics", exc_info=task.exception())
        await gauges.close()
        await close(client)


async def _work(
    settings: Settings,
    db: Database,
    stop: asyncio.Event,
    journals: Journals,
    in_flight: int,
    *,
    burst: bool,
    take_over: bool,
) -> None:
    await _prepare_store(settings, db, stop, journals.of(0), take_over=take_over)
    settle_memory()
    holder = f"{settings.consumer_name} {secrets.token_hex(8)}"
    upkeep = StoreUpkeep(settings, db, holder, journals.of(0).counts, stop)
    groups = RegisteredGroups(settings, db)
    job = Job(settings, db, journals, groups, Quiet(), stop, in_flight, burst)
    keeping = asyncio.create_task(upkeep.run())
    try:
        await Following(settings, db, partial(work_on, job), stop).run()
    finally:
        stop.set()
        await asyncio.wait({keeping}, timeout=GIVE_BACK_S_MAX)
        await end(keeping)
        await groups.close()
    if upkeep.taken is not None:
        raise upkeep.taken
    totals = journals.totals()
    _log.info("stopped", stored=totals.stored, events=totals.events)


async def _end_in_time(
    running: asyncio.Task[None], signals: Signals, stop: asyncio.Event, patience_s: float
) -> None:
    """Wait for the worker; told to stop it has `patience_s`, unless it is told again."""
    try:
        await _done_or_told(running, signals)
        stop.set()
        await _done_or_told(running, signals, patience_s)
    finally:
        # The end of a worker gives back what is pending; that may take its time.
        await end(running, again_s=3 * GIVE_BACK_S_MAX)
    if not running.cancelled():
        running.result()


async def _done_or_told(
    running: asyncio.Task[None], signals: Signals, patience_s: float | None = None
) -> None:
    told = asyncio.create_task(signals.get())
    try:
        await asyncio.wait({running, told}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()


async def _prepare_store(
    settings: Settings, db: Database, stop: asyncio.Event, journal: Journal, *, take_over: bool
) -> None:
    backoff = Backoff()
    while not stop.is_set():
        try:
            await schema.ensure(db)
            await become_writer(db, settings.stream, settings.consumer_group, take_over=take_over)
        except StoreUnavailable as error:
            journal.trouble("the store can't be prepared", reason=str(error))
            await backoff.wait(stop)
        else:
            return
