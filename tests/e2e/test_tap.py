"""`evp tap` and `evp trace` as commands: how they end, and what is said on which stream."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path

from evp.settings import Settings
from evp.stream.client import Link
from tests.e2e.commands import background, evp
from tests.support.streams import append_events
from tests.support.up import EVP
from tests.support.wait import WAIT_S_MAX

NOBODY = {"EVP_REDIS_URL": "redis://127.0.0.1:1"}


async def test_a_reader_that_leaves_ends_it(
    settings: Settings, link: Link, shared: dict[str, str], tmp_path: Path
) -> None:
    """`| head` ends it at once, though no event comes any more; that is no failure."""
    await append_events(settings, 6, each=2)
    line = f"{' '.join(EVP)} tap --from earliest --json | head -2; echo ${{PIPESTATUS[0]}}"
    command = ["bash", "-c", line]
    done = await asyncio.to_thread(
        subprocess.run, command, env=shared, cwd=tmp_path, capture_output=True, timeout=WAIT_S_MAX
    )
    first, second, code = done.stdout.splitlines()
    assert [json.loads(line)["id"] for line in (first, second)] == ["e0", "e1"]
    assert code == b"0"
    assert done.stderr.decode().startswith("evp: ")
    assert len(done.stderr.splitlines()) == 1


async def test_ctrl_c_ends_it_with_a_summary(
    settings: Settings, link: Link, shared: dict[str, str], tmp_path: Path
) -> None:
    """Ctrl-C is exit 130, after what was shown and passed over."""
    await append_events(settings, 3)
    with background("tap", "--from", "1h", environ=shared, cwd=tmp_path) as tap:
        await asyncio.to_thread(tap.wait_says, "e2")
        stopped = await asyncio.to_thread(tap.stop, signal.SIGINT)
    assert stopped.code == 130
    heading, *_, last = tap.text.splitlines()
    assert heading.startswith("accepted")
    assert last == "evp: 3 events shown, 0 passed over"


def test_a_log_that_is_away_at_the_start(shared: dict[str, str], tmp_path: Path) -> None:
    """Before the first contact that is one line, with what to do, and exit 3."""
    done = evp("tap", environ=shared | NOBODY, cwd=tmp_path)
    assert done.code == 3
    assert "`evp up` starts one" in done.one_line


def test_the_story_of_an_unknown_event(shared: dict[str, str], tmp_path: Path) -> None:
    """An event that nobody knows is a finding, also for programs."""
    done = evp("trace", "--id", "nope", "--json", environ=shared, cwd=tmp_path)
    assert (done.code, json.loads(done.out)["fate"]) == (1, "unknown")
