"""The parts of `evp up`: start the stack, tell how to use it, run the demo, wait, stop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from evp import supervise
from evp.cli.context import child_environ
from evp.demo import Demo
from evp.engines.stack import Plan, Stack, plan_engines
from evp.errors import EvpError
from evp.settings import Settings
from evp.signals import own_signals
from evp.storage.client import connect, database
from evp.views.account import account_table


async def bring_up(
    settings: Settings,
    origins: Mapping[str, str],
    serve_processes: int,
    work_processes: int,
    demo: int | None,
) -> None:
    """Run everything until a signal comes, or until a child can't be kept running."""
    console = Console()
    signals = own_signals()
    if origins["drain_delay_ms"] == "default":
        # Nobody balances between servers here.
        settings = msgspec.structs.replace(settings, drain_delay_ms=0)
    listener = supervise.bind(settings.host, settings.port)
    plan = plan_engines(settings, origins, serve_processes, work_processes)
    _tell_engines(console, plan, settings)
    stack = Stack(settings, plan, listener, child_environ)
    told = asyncio.create_task(signals.get())
    running = asyncio.create_task(_run(console, stack, demo))
    try:
        await asyncio.wait({told, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        told.cancel()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        console.print("stopping")
        await stack.stop(signals)


async def _run(console: Console, stack: Stack, demo: int | None) -> None:
    await stack.start()
    _tell_usage(console, stack)
    if demo is not None:
        try:
            await _run_demo(console, stack, demo)
        except EvpError as error:
            console.print(f"the demo failed: {error}", markup=False)
    console.print("running; Ctrl-C stops it")
    await stack.supervisor.failed.wait()
    stack.supervisor.raise_failure()


def _tell_engines(console: Console, plan: Plan, settings: Settings) -> None:
    log = f"{plan.log.binary.label}" if plan.log else "as EVP_REDIS_URL says"
    store = f"{plan.store.binary.label}" if plan.store else "as EVP_MONGO_URL says"
    console.print(f"log    {log}", highlight=False, markup=False)
    console.print(f"store  {store}", highlight=False, markup=False)
    console.print(f"data   {settings.data_dir}", highlight=False, markup=False, soft_wrap=True)


def _tell_usage(console: Console, stack: Stack) -> None:
    key = next(iter(stack.settings.api_keys.values()))
    curl = (
        f"curl -X POST {stack.http_url}/events -H 'content-type: application/json' "
        f"-H 'x-api-key: {key}' "
        '-d \'{"type": "hello", "id": "1", "data": {"name": "world"}}\''
    )
    lines = (f"\nevp accepts events at {stack.http_url}", f"API key: {key}", f"\n{curl}\n")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


async def _run_demo(console: Console, stack: Stack, count: int) -> None:
    settings = stack.settings
    client = connect(settings, connections_max=2)
    demo = Demo(
        stack.http_url,
        next(iter(settings.api_keys.values())),
        database(client, settings.mongo_db),
        count,
    )
    columns = (TextColumn("demo"), BarColumn(), TextColumn("{task.completed:,.0f} stored"))
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("demo", total=count)
            account = await demo.run(lambda stored: bar.update(task, completed=stored))
    finally:
        await client.close()
    console.print(account_table(account))
