"""The parts of `evp stats`: one look, or a look that renews itself."""

from __future__ import annotations

import asyncio

from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from evp.cli.output import Output
from evp.errors import LogUnavailable
from evp.settings import Settings
from evp.stats import Collector, Stats, look_once
from evp.views.stats import render

_WINDOW_S = 1.0


async def watch_stats(settings: Settings, every_s: float | None, *, json: bool) -> None:
    """Print one look, or look again every `every_s` seconds as long as anyone reads it.

    Raises LogUnavailable if the log is away at the first look; later ones go on
    and say so.
    """
    output = Output()
    try:
        if every_s is None:
            _print(output, await look_once(settings, _WINDOW_S), json=json)
        else:
            await _look_again(output, settings, every_s, json=json)
    except LogUnavailable as error:
        what = str(error).rstrip(".")
        raise LogUnavailable(
            f"{what}; `evp up` starts one, EVP_REDIS_URL names another one"
        ) from error


async def _look_again(output: Output, settings: Settings, every_s: float, *, json: bool) -> None:
    collector = Collector(settings)
    try:
        first = await collector.look()
        if json or not output.is_terminal:
            await _print_looks(output, collector, first, every_s, json=json)
        else:
            await _renew_look(output, collector, first, every_s)
    finally:
        await collector.close()


async def _print_looks(
    output: Output, collector: Collector, first: Stats, every_s: float, *, json: bool
) -> None:
    _print(output, first, json=json)
    while output.is_heard:
        await asyncio.sleep(every_s)
        _print(output, await _look(collector), json=json)


async def _renew_look(output: Output, collector: Collector, first: Stats, every_s: float) -> None:
    with Live(render(first), console=output, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(every_s)
            live.update(_renderable(await _look(collector)), refresh=True)


async def _look(collector: Collector) -> Stats | LogUnavailable:
    try:
        return await collector.look()
    except LogUnavailable as error:
        return error


def _renderable(found: Stats | LogUnavailable) -> RenderableType:
    return render(found) if isinstance(found, Stats) else Text(str(found), style="red")


def _print(output: Output, found: Stats | LogUnavailable, *, json: bool) -> None:
    if not json:
        output.print(_renderable(found))
    elif isinstance(found, Stats):
        output.say_json_line(found)
    else:
        output.say_json_line({"error": str(found)})
