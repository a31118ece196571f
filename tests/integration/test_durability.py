"""A 202 says that the disk has it: what the log is set to, replicas, and what cuts in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from evp.errors import AckUnknown, LogNotDurable, LogUnavailable
from evp.server import logwatch
from evp.settings import Settings
from evp.stream import partitions
from evp.stream import producer as producing
from evp.stream.client import Link, LogFull, LogRefused
from evp.stream.durability import Durability, examine, require_commands, require_waiting
from evp.stream.keys import Keys
from evp.stream.memory import info_fields
from evp.stream.partitions import note
from tests.support.make import event, open_frame
from tests.support.proxy import Weather, proxying
from tests.support.server import request, serving, settings_of
from tests.support.servers import Server, own_log
from tests.support.streams import connected
from tests.support.wait import until

NO_STORE = "mongodb://127.0.0.1:1"
GOOD = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A log that tests may set; each test puts it right again."""
    server = own_log(tmp_path_factory.mktemp("own"), "--repl-diskless-sync-delay", "0")
    server.start()
    yield server
    # It would refuse to stop while it writes the AOF that a test has just turned on.
    server.kill()


@pytest.fixture
async def admin(log: Server) -> AsyncIterator[Link]:
    """A connection of its operator; afterwards the log is as it was."""
    link = await Link.open(log.url)
    yield link
    for name, value in GOOD.items():
        await link.call("CONFIG", "SET", name, value)
    await link.call("FLUSHALL")
    await link.close()


@pytest.fixture
def on_log(log: Server, tmp_path: Path) -> Settings:
    """Settings for that log, and no store."""
    short = {"EVP_SHUTDOWN_TIMEOUT_S": "0.2", "EVP_READ_BLOCK_MS": "100"}
    return settings_of(log.url, NO_STORE, tmp_path, **short)


@pytest.fixture
def taken_at_its_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """WAITAOF is believed: whether this log's waits is for a test of its own."""

    async def believe(_link: Link, _keys: Keys) -> bool:
        return True

    monkeypatch.setattr(producing, "require_waiting", believe)


async def configure(link: Link, settings: dict[str, str]) -> None:
    """Set the log as an operator would."""
    for name, value in settings.items():
        await link.call("CONFIG", "SET", name, value)


@pytest.mark.usefixtures("taken_at_its_word")
@pytest.mark.parametrize("hidden", [False, True], ids=["told", "hidden"])
@pytest.mark.parametrize(
    ("changes", "told", "when_hidden"),
    [
        ({}, "always", "WAITAOF"),
        ({"appendfsync": "everysec"}, "WAITAOF", "WAITAOF"),
        ({"appendfsync": "no"}, "set appendfsync always", "the disks of 0 of 1 log"),
        ({"appendonly": "no"}, "set appendonly yes", "set appendonly yes"),
        (
            {"appendonly": "no", "appendfsync": "everysec"},
            "set appendonly yes",
            "set appendonly yes",
        ),
        ({"no-appendfsync-on-rewrite": "yes"}, "set no-appendfsync-on-rewrite no", "WAITAOF"),
        (
            {"no-appendfsync-on-rewrite": "yes", "appendfsync": "everysec"},
            "set no-appendfsync-on-rewrite no",
            "WAITAOF",
        ),
        *[
            (
                {"maxmemory-policy": policy},
                "set maxmemory-policy noeviction",
                "set maxmemory-policy noeviction",
            )
            for policy in ("allkeys-lru", "allkeys-random", "volatile-lru", "volatile-ttl")
        ],
    ],
)
async def test_every_configuration(
    log: Server,
    admin: Link,
    on_log: Settings,
    changes: dict[str, str],
    told: str,
    when_hidden: str,
    *,
    hidden: bool,
) -> None:
    """Fsync with each write, or WAITAOF, or a refusal with the mend; where CONFIG is hidden too."""
    await configure(admin, changes)
    await admin.call("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-config")
    url = log.url.replace("redis://", "redis://app:secret@") if hidden else log.url
    expected = when_hidden if hidden else told
    async with contextlib.AsyncExitStack() as stack:
        if expected not in {"always", "WAITAOF"}:
            with pytest.raises(LogNotDurable, match=expected):
                await stack.enter_async_context(connected(on_log, url=url))
        else:
            producer = await stack.enter_async_context(connected(on_log, url=url))
            assert producer.durability is not None
            found = producer.durability
            assert (found.label, found.wait) == ("fsync", expected == "WAITAOF")
            await producer.append(open_frame(event(1)), 1)


async def test_waitaof_that_does_not_wait_is_refused(admin: Link, on_log: Settings) -> None:
    """A log that syncs each second is taken if its WAITAOF waits for that, and refused if not."""
    await configure(admin, {"appendfsync": "everysec"})
    version = info_fields(await admin.call("INFO", "server"))["redis_version"]
    async with contextlib.AsyncExitStack() as stack:
        if int(version.partition(".")[0]) < 8:  # Valkey says that it is Redis 7.2.4.
            with pytest.raises(LogNotDurable, match=r"WAITAOF answers before.* appendfsync always"):
                await stack.enter_async_context(connected(on_log))
        else:
            producer = await stack.enter_async_context(connected(on_log))
            await producer.append(open_frame(event(1)), 1)
    assert await admin.call("EXISTS", Keys(on_log.stream).probe) == 0


@pytest.mark.slow
async def test_waitaof_of_a_log_that_hides_its_version(
    log: Server, admin: Link, on_log: Settings
) -> None:
    """Where nothing tells what a log is, its WAITAOF is believed if it takes its time each time."""
    await admin.call("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-info")
    keys = Keys(on_log.stream)
    async with proxying(log.url) as proxy:
        url = proxy.url.replace("redis://", "redis://app:secret@")
        async with Link.opened(url, keys) as link:
            # Synced with each write, it answers at once.
            with pytest.raises(LogNotDurable, match="WAITAOF answers before"):
                await require_waiting(link, keys)
            proxy.change(Weather(delay_ms=300))
            await require_waiting(link, keys)


async def test_waitaof_that_cannot_be_tried(log: Server, admin: Link, on_log: Settings) -> None:
    """A log that is full, or does not sync at all, is not believed untried, nor called a liar."""
    await admin.call("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-info")
    keys = Keys(on_log.stream)
    async with Link.opened(log.url.replace("redis://", "redis://app:secret@"), keys) as link:
        await configure(admin, {"maxmemory": "1"})
        with pytest.raises(LogFull):
            await require_waiting(link, keys)
        await configure(admin, {"maxmemory": "0", "appendonly": "no"})
        with pytest.raises((LogNotDurable, LogRefused)) as caught:
            await require_waiting(link, keys)
        assert "answers before" not in str(caught.value)


def test_what_a_sync_came_to_is_read_behind_waitaof() -> None:
    """Where WAITAOF alone tells, its counts are not enough: the last sync must have gone well."""
    by_word = Durability("fsync", wait=True, by_word=True)
    assert [question[0] for question in by_word.questions] == ["WAITAOF", "INFO"]
    by_word.confirm([[1, 0], b"aof_last_write_status:ok\r\n"])
    with pytest.raises(LogNotDurable, match="can't sync its file"):
        by_word.confirm([[1, 0], b"aof_last_write_status:err\r\n"])
    with pytest.raises(LogNotDurable, match="the disks of 0 of 1 log"):
        by_word.confirm([[0, 0], b"aof_last_write_status:ok\r\n"])


async def test_log_that_hides_whether_it_syncs(log: Server, admin: Link, on_log: Settings) -> None:
    """Where WAITAOF answers at once, and evp can't see why it may, nothing is accepted."""
    await admin.call("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-config")
    url = log.url.replace("redis://", "redis://app:secret@")
    with pytest.raises(LogNotDurable, match=r"\+config\|get.*DURABILITY=declared"):
        async with connected(on_log, url=url):
            pass
    async with connected(on_log, url=url, policy="declared") as producer:
        await producer.append(open_frame(event(1)), 1)


async def test_user_without_the_right(log: Server, admin: Link, on_log: Settings) -> None:
    """Who may not send WAITAOF is told to allow that, and not to set what is set."""
    await admin.call("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all", "-waitaof")
    url = log.url.replace("redis://", "redis://app:secret@")
    with pytest.raises(LogNotDurable, match=r"allow its user \+waitaof") as caught:
        async with connected(on_log, url=url):
            pass
    assert "set appendonly" not in str(caught.value)


async def test_file_that_was_just_turned_on(
    admin: Link, on_log: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until an append-only file holds what the log had before it, nothing is accepted."""
    monkeypatch.setattr("evp.stream.durability.DURABLE_WAIT_MS_MAX", 100)
    async with connected(on_log) as producer:
        await admin.call("MSET", *(word for n in range(10) for word in (f"key-{n}", "value")))
        # Microseconds for each key.
        await configure(admin, {"appendonly": "no", "rdb-key-save-delay": "100000"})
        await configure(admin, {"appendonly": "yes", "rdb-key-save-delay": "0"})
        with pytest.raises(LogNotDurable, match="the disks of 0 of 1 log"):
            await producer.connect()
        with pytest.raises(LogUnavailable):
            await producer.append(open_frame(event(1)), 1)

        async def accepts() -> bool:
            try:
                return (await producer.connect()).label == "fsync"
            except LogNotDurable:
                return False

        await until(accepts, what="the file holds everything")
        await producer.append(open_frame(event(1)), 1)


async def test_wrong_setting_is_named_while_running(
    admin: Link, on_log: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready, health, answers and the log name a setting that went wrong, and its mend."""
    monkeypatch.setattr(logwatch, "DURABILITY_CHECK_S", 0.05)
    async with serving(on_log) as server:
        await until(server.is_ready, what="the server accepts")
        with capture_logs() as lines:
            await configure(admin, {"no-appendfsync-on-rewrite": "yes"})

            async def not_ready() -> bool:
                return not await server.is_ready()

            await until(not_ready, what="the server sees it")
        mend = "set no-appendfsync-on-rewrite no"
        ready = msgspec.json.decode((await server.get("/api/ready")).body)
        assert ready["code"] == "log_not_durable"
        assert mend in ready["detail"]
        health = await server.get("/api/health")
        told = msgspec.json.decode(health.body)
        assert (health.status, told["status"], told["log"]["ok"]) == (503, "down", False)
        assert mend in told["log"]["detail"]
        refused = await server.ask(request(b'{"type": "t"}'))
        assert refused.code == "log_not_durable"
        assert [one["log_level"] for one in lines if mend in str(one.get("reason"))] == ["error"]
        await configure(admin, GOOD)
        await until(server.is_ready, what="the server accepts again")


@pytest.mark.usefixtures("taken_at_its_word")
async def test_connection_cut_before_the_disk_had_it(admin: Link, on_log: Settings) -> None:
    """The entry is there and its WAITAOF is not answered: 503 `ack_unknown`, never 202."""
    await configure(admin, {"appendfsync": "everysec"})
    async with serving(on_log) as server:
        await until(server.is_ready, what="the server accepts")
        # From now on WAITAOF waits for a sync that does not come.
        await configure(admin, {"appendfsync": "no"})
        asking = asyncio.create_task(server.ask(request(b'{"type": "t"}')))

        async def is_there() -> bool:
            return bool(await admin.call("XLEN", on_log.stream))

        await until(is_there, what="the entry is there")
        await admin.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        reply = await asking
        assert (reply.status, reply.code) == (503, "ack_unknown")
        await configure(admin, GOOD)
        await until(server.is_ready, what="the server accepts again")


@pytest.mark.usefixtures("taken_at_its_word")
async def test_waitaof_is_sent_with_the_append_and_in_no_transaction(
    admin: Link, on_log: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Append and WAITAOF go out together, over one connection, without MULTI around them."""
    await configure(admin, {"appendfsync": "everysec"})
    sent: list[bytes] = []
    async with connected(on_log) as producer:
        await producer.append(open_frame(event(1)), 1)
        assert producer._link is not None
        connection = producer._link._connection
        send = connection.send_packed_command

        async def listen(packed: Any, **options: Any) -> None:
            sent.append(b"".join(packed))
            await send(packed, **options)

        monkeypatch.setattr(connection, "send_packed_command", listen)
        await producer.append(open_frame(event(2)), 1)
    [together] = sent
    assert together.index(b"EVALSHA") < together.index(b"WAITAOF")
    assert b"MULTI" not in together


async def test_append_that_does_not_reach_the_disk(
    admin: Link, on_log: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that is in the log's memory alone is never acknowledged, by whatever reply."""
    monkeypatch.setattr("evp.stream.durability.DURABLE_WAIT_MS_MAX", 200)
    async with connected(on_log) as producer:
        await configure(admin, {"appendfsync": "everysec"})
        assert producer._link is not None
        producer._durability = await examine(producer._link, "auto", 0)
        # From now on the file is synced when the system likes.
        await configure(admin, {"appendfsync": "no"})
        with pytest.raises(AckUnknown, match="0 of 1 log"):
            await producer.append(open_frame(event(1)), 1)
        assert await admin.call("XLEN", on_log.stream) == 1
        assert producer.epochs()[1][0].acknowledged_seq == 0


async def test_number_of_partitions_is_on_disk_too(
    admin: Link, on_log: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noted is what has reached the disks that were asked for; a log without a file is believed."""
    keys = Keys(on_log.stream)
    monkeypatch.setattr(partitions, "DURABLE_WAIT_MS_MAX", 50)
    await configure(admin, {"appendfsync": "always"})
    assert await note(admin, keys, 3) == 3
    with pytest.raises(LogUnavailable, match="not on enough disks"):
        await note(admin, keys, 4, replicas=1)
    await configure(admin, {"appendonly": "no"})
    assert await note(admin, keys, 5, replicas=1) == 5


@contextlib.asynccontextmanager
async def replica_of(log: Server, folder: Path) -> AsyncIterator[Server]:
    """Run a replica of a log."""
    replica = await asyncio.to_thread(own_log, folder, "--replicaof", f"127.0.0.1 {log.port}")
    await asyncio.to_thread(replica.start)
    try:
        yield replica
    finally:
        await asyncio.to_thread(replica.kill)


async def until_in_step(admin: Link) -> None:
    """Wait until the replica has everything, on its disk too."""

    async def in_step() -> bool:
        _, replicas = await admin.call("WAITAOF", 0, 1, 100, wait_s=1)
        return bool(replicas == 1)

    await admin.call("SET", "mark", 1)
    await until(in_step, what="the replica is in step")


@pytest.mark.slow
async def test_replica_must_have_it_on_disk_too(
    log: Server,
    admin: Link,
    on_log: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one replica asked for: a 202 while it follows, a 503 in time while it hangs."""
    monkeypatch.setattr(producing, "DURABLE_WAIT_MS_MAX", 1500)
    monkeypatch.setattr("evp.stream.durability.DURABLE_WAIT_MS_MAX", 1500)
    settings = msgspec.structs.replace(on_log, durability_replicas=1)
    async with replica_of(log, tmp_path) as replica:
        await until_in_step(admin)
        async with serving(settings) as server:
            await until(server.is_ready, what="the server accepts")
            assert (await server.ask(request(b'{"type": "t"}'))).status == 202
            with replica.paused():
                async with asyncio.timeout(3):
                    reply = await server.ask(request(b'{"type": "t"}'))
                assert (reply.status, reply.code) == (503, "ack_unknown")

                async def not_ready() -> bool:
                    return (await server.get("/api/ready")).code == "log_not_durable"

                await until(not_ready, what="it is not ready")
            await until(server.is_ready, what="the server accepts again")
            assert (await server.ask(request(b'{"type": "t"}'))).status == 202


@pytest.mark.slow
async def test_replica_is_not_waited_for_a_second_each_time(
    log: Server, admin: Link, on_log: Settings, tmp_path: Path
) -> None:
    """A replica tells what its disk has when it is asked, and not with its next heartbeat."""
    async with replica_of(log, tmp_path):
        await until_in_step(admin)
        async with connected(on_log, replicas=1) as producer, asyncio.timeout(15):
            for number in range(30):
                await producer.append(open_frame(event(number)), 1)


async def test_replica_is_refused(log: Server, admin: Link, tmp_path: Path) -> None:
    """A server that follows another is no log, even one that takes writes; its primary is named."""
    async with replica_of(log, tmp_path) as replica, Link.opened(replica.url) as operator:
        for writable in ("no", "yes"):
            await operator.call("CONFIG", "SET", "replica-read-only", writable)
            for policy in ("auto", "declared", "memory"):
                link = await Link.open(replica.url)
                with pytest.raises(LogNotDurable, match=f"replica of 127.0.0.1:{log.port}"):
                    await examine(link, policy, 0)
                # Whoever dials anew may be led to the primary.
                assert not link.is_open


@pytest.mark.parametrize("command", ["WAITAOF", "XAUTOCLAIM"])
async def test_server_that_is_too_old_is_refused(
    command: str, settings: Settings, tmp_path: Path
) -> None:
    """A server without a command that evp needs is refused by name, however it calls itself."""
    server = await asyncio.to_thread(own_log, tmp_path, "--rename-command", command, "")
    await asyncio.to_thread(server.start)
    try:
        with pytest.raises(LogNotDurable, match=f"does not know {command}"):
            async with connected(settings, url=server.url, policy="memory"):
                pass
    finally:
        await asyncio.to_thread(server.kill)


async def test_answer_of_xautoclaim_is_tried(
    admin: Link, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server whose XAUTOCLAIM does not tell what was deleted is refused; no trace is left."""
    await require_commands(admin, keys)
    assert await admin.call("EXISTS", keys.probe) == 0
    monkeypatch.setattr("evp.stream.durability._XAUTOCLAIM_ELEMENTS", 4)
    with pytest.raises(LogNotDurable, match="XAUTOCLAIM does not tell"):
        await require_commands(admin, keys)


async def test_full_log_can_be_connected_to(admin: Link, keys: Keys, on_log: Settings) -> None:
    """A log that is full is connected to all the same, so that it is told as full."""
    await admin.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        await require_commands(admin, keys)
        async with connected(on_log) as producer:
            with pytest.raises(LogRefused):
                await producer.append(open_frame(event(1)), 1)
    finally:
        await admin.call("CONFIG", "SET", "maxmemory", "0")


@pytest.mark.usefixtures("taken_at_its_word")
async def test_count_that_is_too_small_is_no_success(
    admin: Link, on_log: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WAITAOF tells a time-out by its counts alone; the append is unknown, its epoch closed."""
    monkeypatch.setattr("evp.stream.durability.DURABLE_WAIT_MS_MAX", 1)
    async with connected(on_log) as producer:
        await configure(admin, {"appendfsync": "everysec"})
        await producer.connect()
        await configure(admin, {"appendfsync": "no"})
        srv = producer._epoch.srv
        with pytest.raises(AckUnknown):
            await producer.append(open_frame(event(1)), 1)
        assert producer._epoch.srv != srv
        closed, [counted] = producer.epochs()
        assert (closed, counted.acknowledged_seq, counted.unknown) == ([], 0, 1)
