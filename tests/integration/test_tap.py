"""Reading the log by no group: filtered, bounded in rate, from wherever one likes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from evp.settings import Settings
from evp.stream.client import Link
from evp.stream.groups import ensure_group
from evp.stream.info import log_facts
from evp.stream.keys import Keys
from evp.tap import tail
from evp.tap.run import Tap
from evp.tap.showing import Allowance, Portion
from evp.tap.wanted import Start, Wanted
from tests.support.make import event
from tests.support.proxy import proxying
from tests.support.streams import append, append_events
from tests.support.wait import WAIT_S_MAX
from tests.support.workers import append_at_once, changed

EARLIEST = Start(earliest=True)
#: Nobody listens there.
NOWHERE = "redis://127.0.0.1:1"


@asynccontextmanager
async def tapped(
    settings: Settings,
    start: Start = EARLIEST,
    wanted: Wanted = Wanted(),  # noqa: B008 - it is frozen
    *,
    per_s: float = 10_000,
    most: int | None = None,
) -> AsyncIterator[Tap]:
    """Give a tap that has begun."""
    tap = Tap(settings, wanted, shown_per_s=per_s, shown_max=most)
    await tap.begin(start)
    yield tap
    await tap.close()


async def told(tap: Tap, enough: Callable[[list[Portion]], bool]) -> list[Portion]:
    """Return portions until there are enough of them."""
    found: list[Portion] = []
    async with asyncio.timeout(WAIT_S_MAX):
        while not enough(found):
            found.append(await tap.next())
    return found


async def shown(tap: Tap, count: int) -> list[str]:
    """Return the ids of the next so many events."""
    found = await told(tap, lambda all_: sum(len(one.events) for one in all_) >= count)
    return [one["id"] for portion in found for one in portion.events]


async def test_all_is_shown_in_order_and_nothing_moves(
    settings: Settings, keys: Keys, link: Link
) -> None:
    """From the earliest entry on each event comes once, and no group notices."""
    await append_events(settings, 30, each=3)
    await ensure_group(link, keys, "g")
    before = await log_facts(link, keys)
    async with tapped(settings) as tap:
        assert await shown(tap, 30) == [f"e{number}" for number in range(30)]
    after = await log_facts(link, keys)
    assert after.groups[0].lag_events == before.groups[0].lag_events == 30
    assert after.groups[0].consumers == []


async def test_from_now_on(settings: Settings, link: Link) -> None:
    """What was there before is not shown; what comes then is, the moment it comes."""
    await append_events(settings, 5)
    async with tapped(settings, Start()) as tap:
        waiting = asyncio.create_task(shown(tap, 1))
        await asyncio.sleep(0)
        await append_events(settings, 1, first=5)
        assert await waiting == ["e5"]


async def test_from_a_moment_on(settings: Settings, keys: Keys, link: Link) -> None:
    """A moment is one of the log's clock, whether told as a time or as an age."""
    await append(settings, [event(1)])
    await asyncio.sleep(0.002)
    [second] = await append(settings, [event(2)])
    at_ms = int(second.partition("-")[0])
    async with tapped(settings, Start(at_ms=at_ms)) as tap:
        assert await shown(tap, 1) == ["e2"]
    async with tapped(settings, Start(ago_s=3600)) as tap:
        assert await shown(tap, 2) == ["e1", "e2"]


async def test_filters_must_all_hold(settings: Settings, link: Link) -> None:
    """Type, source, subject and values by path select together; then each Nth is taken."""
    await append(
        settings,
        [event(1, type="a"), event(2, type="b"), event(3, type="b", subject="other")],
        [event(4, type="b", data={"n": 5}), event(5, type="b")],
    )
    wanted = Wanted(type="b", source="test", subject="user_1", where=(("data.n", "5"),))
    async with tapped(settings, wanted=wanted) as tap:
        assert await shown(tap, 2) == ["e4", "e5"]
        assert (tap.counts.read, tap.counts.passed_over) == (5, 0)
    async with tapped(settings, wanted=Wanted(every=2)) as tap:
        assert await shown(tap, 3) == ["e1", "e3", "e5"]


async def test_it_ends_after_so_many(settings: Settings, link: Link) -> None:
    """No more are shown than are wanted, and the rest does not count as passed over."""
    await append_events(settings, 50, each=10)
    async with tapped(settings, most=13) as tap:
        found = await told(tap, lambda _: tap.is_done)
        assert sum(len(one.events) for one in found) == 13
        assert tap.counts.passed_over == 0


async def test_what_was_there_waits_for_its_turn(settings: Settings, link: Link) -> None:
    """History is read at the pace it is shown: the rate holds, and nothing is passed over."""
    await append_events(settings, 60, each=20)
    began_at_s = time.monotonic()
    async with tapped(settings, per_s=80) as tap:
        assert len(await shown(tap, 60)) == 60
    # A turn's worth comes at once.
    assert time.monotonic() - began_at_s >= (60 - 20 - 20) / 80
    assert tap.counts.passed_over == 0


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(type="page_view")], ids=["all", "filtered"])
async def test_what_is_too_much_is_passed_over(
    settings: Settings, link: Link, wanted: Wanted
) -> None:
    """Live, no more are shown than may be, and every event is accounted for."""
    async with tapped(settings, Start(), wanted, per_s=8) as tap:
        await append_events(settings, 300, each=100)
        found = await told(tap, lambda _: tap.counts.shown + tap.counts.passed_over >= 300)
        assert tap.counts.shown == sum(len(one.events) for one in found) < 20
        assert tap.counts.shown + tap.counts.passed_over == 300
        await tap._showing.allowance.turn()
        await append_events(settings, 1, first=300)
        # It goes on with the newest.
        await told(tap, lambda all_: any(e["id"] == "e300" for one in all_ for e in one.events))


async def test_who_falls_behind_goes_on_with_the_newest(
    settings: Settings, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With too many events unread, a filter skips them and tells how many."""
    monkeypatch.setattr(tail, "TAP_BEHIND_EVENTS_MAX", 50)
    async with tapped(settings, Start(), Wanted(type="page_view")) as tap:
        await append_at_once(settings, 80)
        await told(tap, lambda _: tap.counts.unread == 80)
        await append_events(settings, 1, first=80)
        assert await shown(tap, 1) == ["e80"]


async def test_broken_and_foreign_entries(settings: Settings, keys: Keys, link: Link) -> None:
    """An entry that can't be read is told and passed over; another program's event is shown."""
    add = ("XADD", settings.stream, "*")
    await link.call(*add, "v", "1", "docs", "\x1bnonsense")
    await link.call(*add, "v", "9")
    await link.call(*add, "type", "t", "id", "plain", "data", '{"a": 1}')
    async with tapped(settings) as tap:
        found = await told(tap, lambda all_: any(one.events for one in all_))
    [plain] = [one for portion in found for one in portion.events]
    assert (plain["id"], plain["data"]) == ("plain", {"a": 1})
    [first, second] = [text for portion in found for text in portion.broken]
    assert "bad field" in first
    assert "version" in second
    assert tap.counts.broken == 2


async def test_a_log_that_is_away_is_waited_for(settings: Settings, link: Link) -> None:
    """That it is away is told once, and that it is back; then it goes on where it was."""
    await append_events(settings, 1)
    async with (
        proxying(settings.redis_url) as proxy,
        tapped(changed(settings, redis_url=proxy.url)) as tap,
    ):
        assert await shown(tap, 1) == ["e0"]
        proxy.lead_to(NOWHERE)
        proxy.reset()
        found = await told(tap, lambda all_: len(all_) >= 4)
        assert ["waiting for it" in (one.notice or "") for one in found].count(True) == 1
        proxy.lead_to(settings.redis_url)
        back = await told(tap, lambda all_: any(one.notice for one in all_))
        assert back[-1].notice == "the log is back"
        await append_events(settings, 1, first=1)
        assert await shown(tap, 1) == ["e1"]


async def test_a_log_that_was_emptied(settings: Settings, link: Link) -> None:
    """A log that comes back without its newest entries is read from its end on."""
    await link.call("XADD", settings.stream, "9999999999999-0", "type", "t", "id", "far")
    async with (
        proxying(settings.redis_url) as proxy,
        tapped(changed(settings, redis_url=proxy.url)) as tap,
    ):
        assert await shown(tap, 1) == ["far"]
        await link.call("DEL", settings.stream)
        proxy.reset()
        await told(tap, lambda all_: any(one.notice == "the log is back" for one in all_))
        assert tap._tails[0].is_live
        await append_events(settings, 1)
        assert await shown(tap, 1) == ["e0"]


async def test_an_allowance_comes_by_turns() -> None:
    """A quarter of a second's events may be shown at once, then the next turn is waited for."""
    allowance = Allowance(40)
    assert allowance.take(100) == 10
    assert allowance.take(100) == 0
    began_at_s = time.monotonic()
    await allowance.turn()
    assert time.monotonic() - began_at_s > 0.2
    assert 9 <= allowance.take(100) <= 10
