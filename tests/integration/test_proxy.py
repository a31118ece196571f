"""The proxy of the fault tests does what it says to both protocols."""

from __future__ import annotations

import asyncio
import time

import pytest
from pymongo.errors import AutoReconnect

from evp.errors import LogUnavailable
from evp.settings import Settings
from evp.storage.client import Database
from evp.stream.client import Link
from evp.stream.scripts import APPEND
from tests.support.proxy import Network, Proxy, Way, Weather, proxying
from tests.support.stores import store
from tests.support.wait import until
from tests.support.wire import Message, OpMsg, Resp


def whole(text: bytes, *, step: int) -> list[Message]:
    """Return the requests in some bytes that come `step` at a time."""
    talk = Resp()
    pieces = (text[at : at + step] for at in range(0, len(text), step))
    return [one for piece in pieces for one in talk.requests(piece)]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_messages_are_told_apart(step: int) -> None:
    """However a pipeline is torn, the same requests come out, with their names."""
    parts = [
        b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n",
        b"*3\r\n$7\r\nevalsha\r\n$3\r\nabc\r\n$0\r\n\r\n",
        b"PING\r\n",
    ]
    found = whole(b"".join(parts), step=step)
    assert found == [
        Message("GET", parts[0]),
        Message("EVALSHA abc", parts[1]),
        Message("PING", parts[2]),
    ]


def test_replies_are_named_after_their_requests() -> None:
    """Nested, empty and missing values are one reply each, in the order of the requests."""
    talk = Resp()
    names = ["XREADGROUP", "XACK", "GET", "XINFO", "EXEC"]
    for name in names:
        list(talk.requests(b"*1\r\n$%d\r\n%b\r\n" % (len(name), name.encode())))
    replies = [b"*2\r\n*1\r\n:1\r\n$2\r\n\r\n\r\n", b":1\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n"]
    found = [one for byte in b"".join(replies) for one in talk.replies(bytes((byte,)))]
    assert found == [Message(*pair) for pair in zip(names, replies, strict=True)]


def test_unasked_reply_has_no_name() -> None:
    """A store that streams its state answers what was answered before."""
    message = bytes(16)
    header = (16).to_bytes(4, "little")
    assert list(OpMsg().replies(header + message[4:])) == [Message("", header + message[4:])]


async def test_lost_reply_of_a_script(settings: Settings) -> None:
    """The script ran once, its caller was cut, and other commands are not touched."""
    async with proxying(settings.redis_url) as proxy:
        proxy.drop_reply(f"EVALSHA {APPEND.digest}")
        keys = (settings.stream, settings.stream + "-counters")
        link = await Link.open(proxy.url)
        assert await link.call("PING") == b"PONG"
        with pytest.raises(LogUnavailable):
            await link.script(APPEND, keys, (1, 1, 1, "a", "b"))
        await link.close()
        again = await Link.open(proxy.url)
        assert await again.call("XLEN", settings.stream) == 1
        await again.script(APPEND, keys, (1, 1, 1, "a", "b"))
        assert await again.call("XLEN", settings.stream) == 2
        await again.call("DEL", *keys)
        await again.close()
        assert proxy.lost == 1
        await until(lambda: proxy.connections == 0, what="no connection is left")


@pytest.mark.parametrize("command", ["insert events", "update events"])
async def test_lost_reply_of_the_store(db: Database, settings: Settings, command: str) -> None:
    """A write whose reply got lost took effect; with retries the driver sends it again."""
    async with proxying(settings.mongo_url) as proxy:
        async with store(f"{proxy.url}&retryWrites=false", settings.mongo_db) as cut:
            proxy.drop_reply(command)
            with pytest.raises(AutoReconnect):
                await (
                    cut["events"].insert_one({"_id": 1})
                    if command.startswith("insert")
                    else cut["events"].update_one({"_id": 1}, {"$set": {"a": 1}}, upsert=True)
                )
        assert proxy.lost == 1
    assert await db["events"].find_one({"_id": 1})


async def test_reply_that_hangs(settings: Settings) -> None:
    """A reply may get lost on a connection that stays open: it is silent from then on."""
    async with proxying(settings.redis_url) as proxy:
        link = await Link.open(proxy.url)
        proxy.drop_reply("PING", hangs=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await link.call("PING")
        assert proxy.connections == 1
        await link.close()


async def test_delay_and_throttle(settings: Settings) -> None:
    """A message takes as long as the weather says, each way."""
    async with proxying(settings.redis_url) as proxy:
        link = await Link.open(proxy.url)
        for weather, least_s in (
            (Weather(delay_ms=100), 0.2),
            (Weather(bytes_per_s=1000), 0.3),
        ):
            proxy.change(weather)
            began_at_s = time.monotonic()
            await link.call("ECHO", "x" * 150)
            assert time.monotonic() - began_at_s >= least_s
        proxy.heal()
        await link.close()


@pytest.mark.parametrize("way", Way)
async def test_blackhole_holds_back(settings: Settings, way: Way) -> None:
    """What goes into a black hole arrives once it is healed, and not before."""
    async with proxying(settings.redis_url) as proxy:
        link = await Link.open(proxy.url)
        proxy.blackhole({way})
        asking = asyncio.create_task(link.call("PING"))
        await asyncio.sleep(0.1)
        assert not asking.done()
        proxy.heal()
        assert await asking == b"PONG"
        await link.close()


@pytest.mark.parametrize("harm", ["reset", "half-close up", "half-close down", "cut"])
async def test_connections_end(settings: Settings, harm: str) -> None:
    """A connection that is cut is gone for its client; the next one is well."""
    async with proxying(settings.redis_url) as proxy:
        link = await Link.open(proxy.url)
        await link.call("PING")
        if harm == "reset":
            proxy.reset()
        elif harm == "cut":
            proxy.change(Weather(cut_after_bytes=300))
        else:
            proxy.half_close(Way.UP if harm.endswith("up") else Way.DOWN)
        with pytest.raises(LogUnavailable):
            await link.call("ECHO", "x" * 1000)
        await link.close()
        proxy.heal()
        link = await Link.open(proxy.url)
        assert await link.call("PING") == b"PONG"
        await link.close()
        await until(lambda: proxy.connections == 0, what="no connection is left")


async def test_split_writes(settings: Settings) -> None:
    """Byte by byte, everything arrives as it was."""
    async with proxying(settings.redis_url) as proxy:
        proxy.change(Weather(split_writes=True))
        link = await Link.open(proxy.url)
        assert await link.call("ECHO", "0123456789" * 100) == b"0123456789" * 100
        await link.close()


async def test_partition_cuts_between_groups() -> None:
    """Only connections from one group to another are concerned."""
    pairs = [("server", "log"), ("worker", "log"), ("server", "store"), ("worker", "store")]
    network = Network({pair: Proxy("redis://127.0.0.1:1") for pair in pairs})
    network.partition({"server", "log"}, {"worker", "store"})
    swallowing = {pair for pair, proxy in network.proxies.items() if proxy.weather.swallowing}
    assert swallowing == {("worker", "log"), ("server", "store")}
    network.heal()
    assert not any(proxy.weather.swallowing for proxy in network.proxies.values())
