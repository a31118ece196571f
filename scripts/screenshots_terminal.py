"""Make the pictures of `evp stats` in docs/images: real looks at a real `evp up` under load.

    python scripts/screenshots_terminal.py          # two minutes

A minute of load, two pictures of the same view on a small and a large terminal, with a worker
that was suspended meanwhile; then the log is suspended, and there is a third one.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI

from evp import running
from evp.cli.watching import Watch
from evp.configuration import load
from evp.running import Running
from evp.settings import Settings
from evp.signals import end
from evp.stats import Collector
from evp.stream.client import Link
from evp.views.live import LiveView, Picture

IMAGES = Path(__file__).parent.parent / "docs" / "images"
SMALL, LARGE = (80, 24), (160, 50)
WORKERS = 4
LOAD = ("--eps", "2000", "--duration", "150s", "--accept-only")
#: What a suspended worker, and a suspended log, need to be missed.
MISSED_S = 12.0
READY_S_MAX = 60.0

#: Pictures fetch nothing, and blocks in them touch each other as on a terminal.
FONT = "font-family: 'DejaVu Sans Mono', Menlo, Consolas, monospace; font-size: 21px"
_WITHOUT_FONTS = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
SVG_FORMAT = re.sub(
    r"font-family: Fira Code.*?font-size: .*?px", FONT, _WITHOUT_FONTS, flags=re.DOTALL
)


class Stage(NamedTuple):
    """What runs, and how commands find it."""

    settings: Settings
    facts: Running


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Run `evp up` and a load in a folder."""
    environ = os.environ | {"EVP_DATA_DIR": str(folder), "EVP_CONSUMER_NAME": "worker"}
    evp = [sys.executable, "-m", "evp"]
    with (folder / "out").open("wb") as output:
        options = {"env": environ, "cwd": folder, "stdout": output, "stderr": output}
        up = subprocess.Popen(
            [*evp, "up", "--port", "0", "--work-processes", str(WORKERS)], **options
        )
        try:
            until_s = time.monotonic() + READY_S_MAX
            while (facts := running.read(folder)) is None and time.monotonic() < until_s:
                time.sleep(0.1)
            if facts is None:
                raise SystemExit((folder / "out").read_text())
            loading = subprocess.Popen([*evp, "loadtest", *LOAD], **options)
            try:
                yield Stage(load(environ, {}, cwd=folder).settings, facts)
            finally:
                loading.terminate()
                loading.wait()
        finally:
            up.terminate()
            up.wait()


async def take_pictures(on: Stage) -> None:
    """Look for a minute, and save three pictures."""
    await add_readers(on.settings)
    collector = Collector(on.settings)
    watch = Watch(await collector.look(), 1.0)
    looking = asyncio.create_task(watch.look_on(collector))
    try:
        await asyncio.sleep(62)
        with suspended(on.facts.children["work-2"]):
            await asyncio.sleep(MISSED_S)
            save("stats-80x24", watch.picture(), SMALL)
            save("stats-wide", watch.picture(), LARGE)
        with suspended(on.facts.children["log"]):
            await asyncio.sleep(2 * MISSED_S)
            save("stats-log-away", watch.picture(), SMALL)
    finally:
        await end(looking)
        await collector.close()


async def add_readers(settings: Settings) -> None:
    """Make a group that reads once and acks nothing: there is one on many a bad day."""
    async with Link.opened(settings.redis_url) as link:
        await link.call("XGROUP", "CREATE", settings.stream, "reports", "0", "MKSTREAM")
        await link.call(
            *("XREADGROUP", "GROUP", "reports", "nightly", "COUNT", 5),
            *("STREAMS", settings.stream, ">"),
        )


@contextlib.contextmanager
def suspended(pid: int) -> Iterator[None]:
    """Stop a process, and let it go on."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def save(name: str, picture: Picture, size: tuple[int, int]) -> None:
    """Save a picture as a terminal of this size shows it."""
    for worker in picture.seen.stats.workers:
        worker.host = worker.host.replace(socket.gethostname(), "host-a")
    columns, rows = size
    console = Console(
        file=io.StringIO(),
        width=columns,
        height=rows,
        record=True,
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(LiveView(picture), end="")
    svg = console.export_svg(
        title="evp stats", theme=MONOKAI, code_format=SVG_FORMAT, unique_id=name
    )
    lines = [line.rstrip() for line in svg.splitlines()]
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"{name}.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Make all pictures."""
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder)) as on:
        asyncio.run(take_pictures(on))


if __name__ == "__main__":
    main()
