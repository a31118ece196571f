"""The parts of `evp stats`: one look, one after the other, or the live view."""

from __future__ import annotations

import asyncio

from rich.text import Text

from evp.cli.away import hint_if_away
from evp.cli.output import Output
from evp.cli.watching import watch_live
from evp.errors import LogUnavailable
from evp.settings import Settings
from evp.stats import Collector, Stats, look_once
from evp.views.stats import render

_WINDOW_S = 1.0
_LIVE_EVERY_S = 1.0


async def show_stats(settings: Settings, every_s: float | None, *, once: bool, json: bool) -> None:
    """Show the live view on a terminal; else print a look, or one after the other.

    Raises LogUnavailable if the log is away at the first look; later ones go on
    and say so.
    """
    output = Output()
    if not json:
        output.replace_unknown()
    is_live = is_full_terminal(output) and not once and not json
    with hint_if_away():
        if every_s is None and not is_live:
            _print(output, await look_once(settings, _WINDOW_S), json=json)
        else:
            await _look_again(output, settings, every_s or _LIVE_EVERY_S, json=json, live=is_live)


def is_full_terminal(output: Output) -> bool:
    """Return True for a terminal that can be drawn on, block characters and all."""
    return output.is_terminal and not output.is_dumb_terminal and output.encoding.startswith("utf")


async def _look_again(
    output: Output, settings: Settings, every_s: float, *, json: bool, live: bool
) -> None:
    collector = Collector(settings)
    try:
        first = await collector.look()
        if live:
            await watch_live(output, collector, first, every_s)
        else:
            await _print_looks(output, collector, first, every_s, json=json)
    finally:
        await collector.close()


async def _print_looks(
    output: Output, collector: Collector, first: Stats, every_s: float, *, json: bool
) -> None:
    _print(output, first, json=json)
    while output.is_heard:
        await asyncio.sleep(every_s)
        _print(output, await _look(collector), json=json)


async def _look(collector: Collector) -> Stats | LogUnavailable:
    try:
        return await collector.look()
    except LogUnavailable as error:
        return error


def _print(output: Output, found: Stats | LogUnavailable, *, json: bool) -> None:
    if json:
        output.say_json_line(found if isinstance(found, Stats) else {"error": str(found)})
    else:
        output.print(render(found) if isinstance(found, Stats) else Text(str(found), style="red"))
