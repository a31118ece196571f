"""The parts of `evp up`: start the stack, tell how to use it, run the demo, wait, stop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from shlex import quote

import msgspec
from rich.progress import BarColumn, Progress, TextColumn

from evp import supervise
from evp.cli.context import child_environ
from evp.cli.output import Output
from evp.demo import Demo
from evp.engines.engine import Engine
from evp.engines.stack import Plan, Stack, plan_engines
from evp.errors import EvpError, StoreUnavailable, redact_url
from evp.settings import Settings
from evp.signals import end, own_signals
from evp.storage.client import opened
from evp.users import FIRST_NAME, create_first
from evp.views.account import account_table

#: The start or the demo, when it is broken off, has this long to close its connections.
_CLEAN_UP_S = 1.0


async def bring_up(
    settings: Settings,
    origins: Mapping[str, str],
    lock_fd: int,
    serve_processes: int,
    work_processes: int,
    demo: int | None,
) -> None:
    """Run everything until a signal comes, or until a child can't be kept running."""
    console = Output()
    signals = own_signals()
    if origins["drain_delay_ms"] == "default":
        # Nobody balances between servers here.
        settings = msgspec.structs.replace(settings, drain_delay_ms=0)
    listener = supervise.bind(settings.host, settings.port)
    plan = await asyncio.to_thread(plan_engines, settings, origins, serve_processes, work_processes)
    _tell_engines(console, plan, settings, origins)
    stack = Stack(settings, plan, listener, lock_fd, child_environ)
    told = asyncio.create_task(signals.get())
    running = asyncio.create_task(_run(console, stack, demo))
    try:
        await asyncio.wait({told, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        told.cancel()
        await end(running, again_s=_CLEAN_UP_S)
        console.say("stopping")
        await stack.stop(signals)


async def _run(console: Output, stack: Stack, demo: int | None) -> None:
    with console.status("starting"):
        await stack.start()
    _tell_usage(console, stack)
    await _make_first_user(console, stack)
    if demo is not None:
        try:
            await _run_demo(console, stack, demo)
        except EvpError as error:
            console.say(f"the demo failed: {error}")
    console.say("running; Ctrl-C stops it")
    await stack.supervisor.failed.wait()
    stack.supervisor.raise_failure()


def _tell_engines(
    console: Output, plan: Plan, settings: Settings, origins: Mapping[str, str]
) -> None:
    def told(engine: Engine | None, url: str, origin: str) -> str:
        return engine.binary.label if engine else f"{redact_url(url)} ({origin})"

    console.say(f"log    {told(plan.log, settings.redis_url, origins['redis_url'])}")
    console.say(f"store  {told(plan.store, settings.mongo_url, origins['mongo_url'])}")
    console.say(f"data   {settings.data_dir}")


def _tell_usage(console: Output, stack: Stack) -> None:
    key = next(iter(stack.settings.api_keys.values()))
    event = '{"type": "hello", "id": "1", "data": {"name": "world"}}'
    curl = (
        f"curl -X POST {quote(f'{stack.http_url}/events')} -H 'content-type: application/json' "
        f"-H {quote(f'x-api-key: {key}')} -d '{event}'"
    )
    console.say(f"\nevp accepts events at {stack.http_url}\nAPI key: {key}\n\n{curl}\n")
    console.say(f"The dashboard is at {stack.http_url}/")


async def _make_first_user(console: Output, stack: Stack) -> None:
    """Make a user where there is none; who stops evp just now sets another password by hand."""
    try:
        async with opened(stack.settings, connections_max=1) as db:
            password = await create_first(db)
    except StoreUnavailable as error:
        console.say(f"no user was made, {error}; `evp users create` makes one")
    else:
        if password is not None:
            console.say(f"Login: {FIRST_NAME} / {password} (told only now)\n")


async def _run_demo(console: Output, stack: Stack, count: int) -> None:
    settings = stack.settings
    key = next(iter(settings.api_keys.values()))
    columns = (TextColumn("demo"), BarColumn(), TextColumn("{task.completed:,.0f} stored"))
    async with opened(settings, connections_max=2) as db:
        demo = Demo(stack.http_url, key, db, count, time_in_id=settings.time_in_id)
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("demo", total=count)
            account = await demo.run(lambda stored: bar.update(task, completed=stored))
    console.print(account_table(account))
