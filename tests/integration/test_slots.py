"""Consumer names: kept over a restart, never shared."""

from __future__ import annotations

import asyncio
import os

import msgspec
import psutil
import pytest

from evp.limits import SLOT_LEASE_MS
from evp.settings import Settings
from evp.stream import slots
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.slots import Holder, Slot
from tests.support.wait import until


async def take(settings: Settings, keys: Keys) -> Slot:
    """Take a slot as a worker does."""
    return await Slot.take(settings.redis_url, keys, "g", "host")


async def test_first_free_slot(settings: Settings, keys: Keys, link: Link) -> None:
    """Each worker has a name of its own; one that was given back is taken again."""
    one, two = await take(settings, keys), await take(settings, keys)
    assert (one.name, two.name) == ("host-1", "host-2")
    await one.release()
    again = await take(settings, keys)
    assert again.name == "host-1"
    await again.release()
    await two.release()
    assert await link.call("EXISTS", keys.slot("g", "host-1"), keys.slot("g", "host-2")) == 0


async def test_lease_of_a_dead_process_is_taken_at_once(
    settings: Settings, keys: Keys, link: Link
) -> None:
    """A process of this host that runs no more holds nothing."""
    process = await asyncio.create_subprocess_exec("sleep", "60")
    holder = msgspec.structs.replace(
        await asyncio.to_thread(Holder.me),
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
    )
    key = keys.slot("g", "host-1")
    await link.call("SET", key, msgspec.json.encode(holder), "PX", SLOT_LEASE_MS)
    two = await take(settings, keys)
    assert two.name == "host-2"
    process.kill()
    await process.wait()
    one = await take(settings, keys)
    assert one.name == "host-1"
    await one.release()
    await two.release()


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"pid": os.getpid()}])
async def test_lease_that_may_be_alive_is_respected(
    settings: Settings, keys: Keys, link: Link, change: dict[str, object]
) -> None:
    """A process that runs, or whose host can't be looked at, keeps its name."""
    holder = msgspec.structs.replace(await asyncio.to_thread(Holder.me), **change)
    key = keys.slot("g", "host-1")
    await link.call("SET", key, msgspec.json.encode(holder), "PX", SLOT_LEASE_MS)
    slot = await take(settings, keys)
    assert slot.name == "host-2"
    await slot.release()


def test_same_pid_after_a_restart_is_another_process() -> None:
    """A process id that was used again does not hold what the old process held."""
    reused = msgspec.structs.replace(Holder.me(), started=1.0)
    assert reused.is_dead_here()
    assert not Holder.me().is_dead_here()


def test_hidden_process_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc hides the processes of others, one that can't be seen may live."""

    def hidden(pid: int) -> psutil.Process:
        raise psutil.NoSuchProcess(pid)

    holder = msgspec.structs.replace(Holder.me(), pid=os.getppid())
    monkeypatch.setattr(psutil, "Process", hidden)
    assert not holder.is_dead_here()


async def test_nonsense_in_a_lease_is_respected(settings: Settings, keys: Keys, link: Link) -> None:
    """What can't be read may be a newer evp's lease; it runs out by itself."""
    await link.call("SET", keys.slot("g", "host-1"), "?", "PX", SLOT_LEASE_MS)
    slot = await take(settings, keys)
    assert slot.name == "host-2"
    await slot.release()


async def test_lease_is_renewed_and_its_loss_is_noticed(
    settings: Settings, keys: Keys, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease does not run out while its worker lives; one that another has is lost."""
    monkeypatch.setattr(slots, "SLOT_RENEW_MS", 50)
    slot = await take(settings, keys)
    key = keys.slot("g", slot.name)
    await link.call("PEXPIRE", key, 1000)

    async def renewed() -> bool:
        return int(await link.call("PTTL", key)) > SLOT_LEASE_MS - 1000

    await until(renewed, what="the lease is extended")
    await link.call("DEL", key)
    await until(renewed, what="a lease that is nobody's is taken again")
    await link.call("SET", key, b"another")
    await until(slot.lost.is_set, what="the loss is noticed")
    await slot.release()
    assert await link.call("GET", key) == b"another"
