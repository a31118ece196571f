"""The parts of `evp stats`: one look, or a look that renews itself."""

from __future__ import annotations

import asyncio

import msgspec
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from evp.errors import LogUnavailable
from evp.settings import Settings
from evp.stats import Collector, Stats, look_once
from evp.views.stats import render

_WINDOW_S = 1.0


async def watch_stats(settings: Settings, every_s: float | None, *, json: bool) -> None:
    """Print one look, or look again every `every_s` seconds until interrupted.

    Raises LogUnavailable if the log is away at the first look; later ones go on
    and say so.
    """
    console = Console()
    if every_s is None:
        stats = await look_once(settings, _WINDOW_S)
        _print(console, stats, json=json)
        return
    collector = Collector(settings)
    try:
        first = await collector.look()
        if json or not console.is_terminal:
            _print(console, first, json=json)
            while True:
                await asyncio.sleep(every_s)
                _print(console, await _look(collector), json=json)
        with Live(render(first), console=console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(every_s)
                live.update(_renderable(await _look(collector)), refresh=True)
    finally:
        await collector.close()


async def _look(collector: Collector) -> Stats | LogUnavailable:
    try:
        return await collector.look()
    except LogUnavailable as error:
        return error


def _renderable(found: Stats | LogUnavailable) -> RenderableType:
    return render(found) if isinstance(found, Stats) else Text(str(found), style="red")


def _print(console: Console, found: Stats | LogUnavailable, *, json: bool) -> None:
    if not json:
        console.print(_renderable(found))
    elif isinstance(found, Stats):
        print(msgspec.json.encode(found).decode(), flush=True)
    else:
        print(msgspec.json.encode({"error": str(found)}).decode(), flush=True)
