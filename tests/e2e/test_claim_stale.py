"""`evp claim-stale`: what workers left behind is stored, acked, and told in an exit code."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from evp.settings import Settings
from tests.e2e.commands import background, evp
from tests.e2e.log import groups_in_log, names_in_log
from tests.e2e.store import ids, once
from tests.support.make import SRV, event, open_frame
from tests.support.streams import append_events, consumer
from tests.support.wait import until_now

GROUP = "evp-workers-group"


def leave(settings: Settings, count: int, *, each: int = 10, name: str = "gone-1") -> None:
    """Put events into the log, deliver them to a consumer, and let that go away."""

    async def deliver() -> None:
        await append_events(settings, count, each=each)
        gone = consumer(settings, name)
        await gone.ensure_group()
        while await gone.read(100):
            pass
        await gone.close()

    asyncio.run(deliver())


def test_all_that_is_stale_is_stored(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path
) -> None:
    """It claims to the end, writes, acks, removes whoever is gone, and leaves no name."""
    leave(settings, 2_000)
    done = evp("claim-stale", "--min-idle", "0", "--json", environ=shared, cwd=tmp_path)
    account = json.loads(done.out)
    assert done.code == 0
    assert (account["frames"], account["events"], account["stored"]) == (200, 2_000, 2_000)
    assert account["removed"] == ["gone-1"]
    assert ids(stored) == once(2_000)
    assert groups_in_log(shared) == {GROUP: (0, 0)}
    assert names_in_log(shared, GROUP) == set()


def test_nothing_to_do(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path
) -> None:
    """What was delivered a moment ago is left alone; the line says that nothing was claimed."""
    leave(settings, 20)
    done = evp("claim-stale", environ=shared, cwd=tmp_path)
    assert (done.code, done.out) == (
        0,
        "0 frames claimed, 0 events, 0 stored, 0 duplicate, 0 dead\n",
    )
    assert groups_in_log(shared) == {GROUP: (2, 0)}


@pytest.mark.slow
def test_several_at_once(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path
) -> None:
    """Three beside each other, and a worker, store each event once."""
    leave(settings, 3_000)
    command = ("claim-stale", "--min-idle", "0", "--json")
    with (
        background("work", environ=shared, cwd=tmp_path, name="work") as worker,
        background(*command, environ=shared, cwd=tmp_path, name="one") as one,
        background(*command, environ=shared, cwd=tmp_path, name="two") as two,
        background(*command, environ=shared, cwd=tmp_path, name="three") as three,
    ):
        assert [each.wait().code for each in (one, two, three)] == [0, 0, 0]
        until_now(lambda: groups_in_log(shared) == {GROUP: (0, 0)}, what="all is acked")
        assert worker.stop().code == 0
    assert ids(stored) == once(3_000)
    outcomes = list(stored.outcomes.find())
    assert sum(one["stored"] for one in outcomes) == 3_000
    assert names_in_log(shared, GROUP) == set()


def test_findings(shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path) -> None:
    """Deleted, unreadable and newer entries, and refused events, end in 1 and are told."""
    with Redis.from_url(shared["EVP_REDIS_URL"]) as log:
        newer = open_frame(event(90)).fields(SRV, 9) | {b"v": b"2"}
        log.xadd(settings.stream, newer)
        log.xadd(settings.stream, {"foo": "bar"})
        gone = log.xadd(settings.stream, {"type": "gone"})
        leave(settings, 10)
        log.xdel(settings.stream, gone)
    done = evp("claim-stale", "--min-idle", "0", "--json", environ=shared, cwd=tmp_path)
    account = json.loads(done.out)
    assert done.code == 1
    found = {name: account[name] for name in ("stored", "corrupt", "deleted", "left")}
    assert found == {"stored": 10, "corrupt": 1, "deleted": 1, "left": 1}
    text = evp("claim-stale", "--min-idle", "0", environ=shared, cwd=tmp_path)
    assert "1 entries left: of a newer evp" in text.out


def test_wrong_group_is_told(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path
) -> None:
    """A group that isn't there ends in 2 and one line that names those that are."""
    leave(settings, 10)
    done = evp("claim-stale", "--group", "nobody", environ=shared, cwd=tmp_path)
    assert done.code == 2
    assert "has no group nobody (it has: evp-workers-group)" in done.one_line


@pytest.mark.parametrize("missing", ["EVP_REDIS_URL", "EVP_MONGO_URL"])
def test_no_engine(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path, missing: str
) -> None:
    """Without one of its engines it ends in 3 and one line."""
    leave(settings, 10)
    scheme = shared[missing].partition(":")[0]
    environ = shared | {missing: f"{scheme}://127.0.0.1:1"}
    done = evp("claim-stale", environ=environ, cwd=tmp_path)
    assert done.code == 3
    assert "127.0.0.1:1" in done.one_line


@pytest.mark.slow
def test_told_to_stop_it_gives_back(
    shared: dict[str, str], settings: Settings, stored: Any, tmp_path: Path
) -> None:
    """Ctrl-C ends it with 130 and an account; others can claim at once what it had."""
    leave(settings, 4_000, each=4)
    slowly = shared | {"EVP_READ_COUNT": "1"}
    command = ("claim-stale", "--min-idle", "0", "--json")
    with background(*command, environ=slowly, cwd=tmp_path, name="claim") as claim:
        until_now(lambda: "claim-stale-1" in names_in_log(shared, GROUP), what="it has begun")
        assert claim.stop(signal.SIGINT).code == 130
        # The log of the command is above it.
        account = json.loads("{" + f"\n{claim.text}".rpartition("\n{\n")[2])
    assert account["interrupted"]
    assert account["events"] < 4_000
    assert evp(*command, environ=shared, cwd=tmp_path).code == 0
    assert ids(stored) == once(4_000)
    assert groups_in_log(shared) == {GROUP: (0, 0)}
