"""`evp work`: the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from socket import socket

    from evp.metrics.exporter import Exporter
    from evp.settings import Settings


def work(
    group: Annotated[Optional[str], typer.Option(help="Consumer group.")] = None,
    name: Annotated[Optional[str], typer.Option(help="Base of the consumer names.")] = None,
    batch_size: Annotated[
        Optional[int], typer.Option(help="Events written at once, about.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Worker processes.")] = 1,
    in_flight: Annotated[
        int,
        typer.Option(
            min=1,
            max=16,
            help="Batches of each partition written at once by one process, when it is behind.",
        ),
    ] = 2,
    burst: Annotated[
        bool, typer.Option("--burst", help="Stop when the stream is drained.")
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Make this group the one that writes to the database; workers of another one "
            "finish their batch and stop within seconds.",
        ),
    ] = False,
    board: Annotated[
        Optional[str], typer.Option(hidden=True, help="Share metrics at this place.")
    ] = None,
    metrics_fd: Annotated[
        Optional[int], typer.Option(hidden=True, help="Tell metrics on this inherited socket.")
    ] = None,
) -> None:
    """Carry events from the log into the store, and ack them once they are there.

    Example: evp work --group evp-workers-group --processes 2
    """
    from evp.cli.context import run, start
    from evp.cli.working import metrics_listener, run_workers

    settings = start(consumer_group=group, consumer_name=name, worker_batch_size=batch_size)
    if processes == 1:
        listener = metrics_listener(settings, metrics_fd, alone=board is None)
        _work_alone(settings, board, listener, in_flight, burst=burst, take_over=take_over)
        return
    if take_over:
        # Not by the children: started again, they would take back what was taken over since.
        run(_take_over(settings))
    run_workers(settings, processes, in_flight, burst=burst)


def _work_alone(
    settings: Settings,
    board: str | None,
    listener: socket | None,
    in_flight: int,
    *,
    burst: bool,
    take_over: bool,
) -> None:
    """Work in this process; it shares its metrics on a board, and tells them on a listener."""
    from evp.cli.context import run_until_told
    from evp.metrics.board import Place
    from evp.worker.run import Tell
    from evp.worker.run import work as work_one

    tell: Tell | None = None
    if listener is not None:
        from evp.metrics.port import tell_metrics

        def tell_on_it(exporter: Exporter) -> Coroutine[Any, Any, None]:
            return tell_metrics(exporter, listener, settings.metrics_token)

        tell = tell_on_it
    place = Place.of_flag(board) if board else None
    run_until_told(
        lambda signals: work_one(
            settings,
            signals,
            in_flight=in_flight,
            burst=burst,
            take_over=take_over,
            place=place,
            tell=tell,
        )
    )


async def _take_over(settings: Settings) -> None:
    from evp.groups.book import GroupBook

    async with GroupBook.opened(settings) as book:
        await book.take_over(settings.consumer_group)
