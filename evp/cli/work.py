"""`evp work`: the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
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
            min=1, max=16, help="Batches written at once by one process, when it is behind."
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
) -> None:
    """Carry events from the log into the store, and ack them once they are there.

    Example: evp work --group evp-workers-group --processes 2
    """
    import sys

    from evp import supervise
    from evp.cli.context import child_environ, run, run_until_told, start
    from evp.worker.run import work as work_one

    settings = start(consumer_group=group, consumer_name=name, worker_batch_size=batch_size)
    if processes == 1:
        run_until_told(
            lambda signals: work_one(
                settings, signals, in_flight=in_flight, burst=burst, take_over=take_over
            )
        )
        return
    if take_over:
        # Not by the children: started again, they would take back what was taken over since.
        run(_take_over(settings))
    command = [sys.executable, "-m", "evp", "work", "--in-flight", str(in_flight)]
    command += ["--burst"] if burst else []
    children = [
        supervise.Child(
            name=f"work-{number}",
            command=command,
            environ=child_environ(settings),
            done_at_exit_0=burst,
        )
        for number in range(1, processes + 1)
    ]
    run(supervise.run_children(children, settings.shutdown_timeout_s + 1))


async def _take_over(settings: Settings) -> None:
    from evp.groups import GroupBook

    async with GroupBook.opened(settings) as book:
        await book.take_over(settings.consumer_group)
