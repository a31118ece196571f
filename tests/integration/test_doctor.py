"""`evp doctor` finds each fault that is planted, mends what it says it can, and nothing else."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil
import pytest
from structlog.testing import capture_logs

from evp.cli.doctoring import Options, examine_and_tell
from evp.clock import now, now_ms
from evp.doctor import log_settings, log_state, machine, run, stream, work
from evp.doctor.checks import CHECKS
from evp.doctor.deployment import Deployment
from evp.doctor.findings import ERROR, NOTE, WARNING, Finding, Report
from evp.doctor.run import examine, mend
from evp.engines.engine import free_port
from evp.errors import LogNotDurable
from evp.settings import Settings
from evp.storage import client, schema
from evp.storage import groups as store_groups
from evp.storage.client import Database
from evp.storage.ledger import record_deleted, record_worker, worker_records
from evp.stream.client import Link
from evp.stream.groups import delete_group, ensure_group, existing_groups
from evp.stream.keys import Keys
from evp.stream.ledger import Record, record_epochs
from evp.stream.partitions import note
from evp.stream.slots import Slot
from tests.support.apart import move
from tests.support.make import event
from tests.support.server import request, serving
from tests.support.servers import Server, own_log, program_log
from tests.support.stores import MAY_LEAVE_SOCKETS, documents, hanging
from tests.support.streams import append, append_events, consumer
from tests.support.wait import until
from tests.support.workers import changed, drain, until_drained, working

pytestmark = MAY_LEAVE_SOCKETS

NOBODY_LOG = "redis://127.0.0.1:1/0"
NOBODY_STORE = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100"


class Place(NamedTuple):
    """Where a fault is planted."""

    settings: Settings
    keys: Keys
    link: Link
    db: Database


@pytest.fixture
async def place(log: Server, settings: Settings, keys: Keys, db: Database) -> AsyncIterator[Place]:
    """A healthy deployment on a log that may be set; afterwards it is empty and as it was."""
    link = await Link.open(log.url)
    before = await configuration(link)
    yield Place(changed(settings, redis_url=log.url), keys, link, db)
    await link.close()
    link = await Link.open(log.url)
    for name, value in (await configuration(link)).items():
        if before[name] != value:
            await link.call("CONFIG", "SET", name, before[name])
    await link.call("FLUSHALL")
    await link.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is looked at twice holds still, so there is nothing to wait for."""
    for module in (stream, work):
        monkeypatch.setattr(module, "AGAIN_S", 0.0)


async def configuration(link: Link) -> dict[str, str]:
    """Return all settings of the log."""
    flat = await link.call("CONFIG", "GET", "*")
    texts = [one.decode() for one in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


async def everything(place: Place) -> dict[str, Any]:
    """Return all there is: settings and keys of the log, collections, indexes and documents."""
    names = sorted(await place.link.call("KEYS", "*"))
    return {
        "settings": await configuration(place.link),
        "keys": {name: await place.link.call("DUMP", name) for name in names},
        "store": {name: await documents(place.db, name) for name in schema.ALL},
        "indexes": {
            name: [dict(one) for one in await (await place.db[name].list_indexes()).to_list()]
            for name in sorted(await place.db.list_collection_names())
        },
    }


async def examined(settings: Settings) -> Report:
    """Return what it finds."""
    return await examine(settings, lambda _check: None)


async def the_finding(settings: Settings, check: str) -> Finding:
    """Return the only thing that is wrong, which must be this."""
    report = await examined(settings)
    assert report.not_checked == []
    found = [one for one in report.findings if one.check != "few_files"]
    assert [one.check for one in found] == [check]
    return found[0]


async def mended(settings: Settings) -> list[str]:
    """Mend everything that can be; return what was done. Nothing is left."""
    done = await mend(settings, (await examined(settings)).fixable, lambda _check: None)
    assert [one.failed for one in done if one.failed] == []
    assert (await examined(settings)).findings == []
    return [line for one in done for line in one.done]


async def test_healthy(place: Place) -> None:
    """With server, worker and events under way nothing is wrong, and looking changes nothing."""
    async with serving(place.settings) as server, working(place.settings):
        await until(server.is_ready, what="the server accepts")
        for number in range(3):
            body = msgspec.json.encode(event(number))
            assert (await server.ask(request(body))).status == 202
        await until_drained(place.settings)
        await until(lambda: is_recorded(place, 3), what="the store knows how far it got")
        report = await examined(place.settings)
        assert (report.findings, report.not_checked, report.away) == ([], [], {})
    before = await everything(place)
    assert (await examined(place.settings)).findings == []
    assert await everything(place) == before


async def is_recorded(place: Place, seq: int) -> bool:
    """Return True if the store has recorded a server's frame of this number."""
    return bool(await place.db[schema.SERVERS].count_documents({"seq": seq}))


LOG_SETTINGS = [
    ("aof_off", "appendonly", "no", ERROR, True),
    ("aof_not_synced", "appendfsync", "no", ERROR, True),
    ("aof_sync_pauses", "no-appendfsync-on-rewrite", "yes", ERROR, True),
    ("evicts", "maxmemory-policy", "allkeys-lru", ERROR, True),
    ("idle_connections_cut", "timeout", "10", WARNING, False),
    ("no_keepalive", "tcp-keepalive", "0", NOTE, False),
    ("aof_rewritten_often", "auto-aof-rewrite-min-size", "67108864", NOTE, False),
]


@pytest.mark.parametrize(("check", "name", "value", "severity", "fixable"), LOG_SETTINGS)
async def test_setting_of_the_log(
    place: Place, check: str, name: str, value: str, severity: str, *, fixable: bool
) -> None:
    """A wrong setting is found, with the command that puts it right; a mend sets that alone."""
    before = await configuration(place.link)
    await place.link.call("CONFIG", "SET", name, value)
    finding = await the_finding(place.settings, check)
    assert (finding.severity, finding.fixable) == (severity, fixable)
    assert f"CONFIG SET {name} " in finding.command
    if not fixable:
        await place.link.call("CONFIG", "SET", name, finding.command.split()[-1])
        assert (await examined(place.settings)).findings == []
        return
    [done] = await mended(place.settings)
    assert "can't be rewritten (The server is running without a config file)" in done
    assert await configuration(place.link) == before


@pytest.mark.parametrize("waits", [True, False])
async def test_everysec(place: Place, monkeypatch: pytest.MonkeyPatch, *, waits: bool) -> None:
    """Where each append can wait for the disk, syncing once a second is no fault; else it is."""

    async def require(_link: Link, _keys: Keys) -> None:
        if not waits:
            raise LogNotDurable("it answers before")

    monkeypatch.setattr(log_settings, "require_waiting", require)
    await place.link.call("CONFIG", "SET", "appendfsync", "everysec")
    if waits:
        assert (await examined(place.settings)).findings == []
        return
    finding = await the_finding(place.settings, "aof_not_synced")
    assert "its WAITAOF does not wait" in finding.what
    assert (await mended(place.settings)) != []
    assert (await examined(place.settings)).findings == []


async def test_what_was_chosen_is_a_note(place: Place) -> None:
    """With DURABILITY=memory a log without a file is as it was meant; with declared a warning."""
    await place.link.call("CONFIG", "SET", "appendonly", "no")
    memory = changed(place.settings, durability="memory")
    assert (await the_finding(memory, "durability_waived")).severity == NOTE
    declared = await examined(changed(place.settings, durability="declared"))
    told = {one.check: one.severity for one in declared.findings}
    assert told == {"aof_off": WARNING, "durability_waived": NOTE}


async def test_configuration_file_is_rewritten(
    settings: Settings, db: Database, tmp_path: Path
) -> None:
    """Where the log has a configuration file the mend is in it, so that a restart keeps it."""
    file = tmp_path / "log.conf"
    file.write_text("maxmemory-policy allkeys-lfu\n", encoding="utf-8")
    server = await asyncio.to_thread(program_log, tmp_path / "log")
    place = server._command.index("--maxmemory-policy")
    del server._command[place : place + 2]
    server._command.insert(server._command.index("--bind"), str(file))
    await asyncio.to_thread(server.start)
    try:
        on_it = changed(settings, redis_url=server.url)
        await the_finding(on_it, "evicts")
        [done] = await mended(on_it)
        assert done.endswith("in the log's configuration file as well")
        assert "maxmemory-policy noeviction" in file.read_text(encoding="utf-8")
    finally:
        await asyncio.to_thread(server.kill)


async def test_file_that_was_just_turned_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until an append-only file holds what the log had before it, that is told."""
    monkeypatch.setattr(log_settings, "DURABLE_WAIT_MS_MAX", 100)
    words = [word for number in range(10) for word in (f"key-{number}", "value")]
    await place.link.call("MSET", *words)
    await place.link.call("CONFIG", "SET", "appendonly", "no", "rdb-key-save-delay", 200_000)
    await place.link.call("CONFIG", "SET", "appendonly", "yes")
    await place.link.call("CONFIG", "SET", "rdb-key-save-delay", 0)
    await the_finding(place.settings, "aof_starting")
    await until_rewritten(place.link, "ok")
    assert (await examined(place.settings)).findings == []


async def memory_fills(place: Place) -> None:
    """Give the log hardly more memory than it uses; so much that a script more is nothing."""
    await place.link.call("SETRANGE", "filler", 20_000_000, "x")
    told = (await place.link.call("INFO", "memory")).decode()
    used = int(told.partition("used_memory:")[2].split()[0])
    await place.link.call("CONFIG", "SET", "maxmemory", int(used * 1.9))


async def connections_run_out(place: Place) -> None:
    """Give the log no more connections than it will have."""
    await place.link.call("CONFIG", "SET", "maxclients", 2)


async def key_is_taken(place: Place) -> None:
    """Let another program have a key of evp's."""
    await place.link.call("SET", place.keys.serving, "mine")


async def frames_are_newer(place: Place) -> None:
    """Let a newer evp write."""
    await ensure_group(place.link, place.keys, place.settings.consumer_group)
    await place.link.call("XADD", place.settings.stream, "*", "v", "9")


async def group_is_gone(place: Place) -> None:
    """Let the stream lose a group."""
    await ensure_group(place.link, place.keys, "lost")
    await place.link.call("XGROUP", "DESTROY", place.settings.stream, "lost")


async def group_sleeps(place: Place) -> None:
    """Make a group by which nobody reads, with a name that no shell should run."""
    await add_old(place)
    await drain(place.settings)
    await place.link.call("XGROUP", "CREATE", place.settings.stream, "a; reboot", "0")


async def nobody_is_there(place: Place) -> None:
    """Let an event wait since long ago."""
    await add_old(place)
    await ensure_group(place.link, place.keys, place.settings.consumer_group)


async def add_old(place: Place) -> None:
    """Add an entry of long ago; it stays until it is trimmed."""
    await place.link.call(
        "XADD", place.settings.stream, "1000-0", "type", "t", "source", "s", "id", "old"
    )


async def another_group_writes(place: Place) -> None:
    """Let another group be the one that writes."""
    await store_groups.become_writer(place.db, place.settings.stream, "other")
    await ensure_group(place.link, place.keys, "other")


async def event_is_dead(place: Place) -> None:
    """Accept two different events with one id."""
    await append(place.settings, [event(1)], [event(1, data={"n": 2})])
    await drain(place.settings)


async def entries_were_deleted(place: Place) -> None:
    """Let entries have been deleted before they were acked."""
    await record_deleted(place.db, place.settings.stream, ["1-0"])


async def index_is_another(place: Place) -> None:
    """Make an index of evp's with other options."""
    await place.db[schema.OUTCOMES].drop_index("judge_at_1")
    await place.db[schema.OUTCOMES].create_index("judge_at")


async def sharded_by_type(place: Place) -> None:
    """Tell evp what a router would tell of a collection."""
    row = {"_id": f"{place.db.name}.{schema.EVENTS}", "key": {"type": 1}}
    await place.db.client["config"]["collections"].insert_one(row)


Plant = Callable[[Place], Awaitable[None]]
FOR_PEOPLE: list[tuple[str, str, str, Plant]] = [
    ("memory_filling", WARNING, "evp groups list", memory_fills),
    ("connections_filling", WARNING, "CLIENT LIST", connections_run_out),
    ("wrong_type", ERROR, "TYPE", key_is_taken),
    ("newer_frames", ERROR, "", frames_are_newer),
    ("group_missing", ERROR, "evp groups delete lost", group_is_gone),
    ("group_pins", WARNING, "evp groups delete 'a; reboot'", group_sleeps),
    ("nobody_works", ERROR, "evp work", nobody_is_there),
    ("other_writer", ERROR, "evp work --take-over", another_group_writes),
    ("dead_letters", WARNING, "evp dlq list", event_is_dead),
    ("entries_deleted", NOTE, "evp verify", entries_were_deleted),
    ("index_different", ERROR, 'db.outcomes.dropIndex("judge_at_1")', index_is_another),
    ("wrongly_sharded", ERROR, "sh.status()", sharded_by_type),
]


@pytest.mark.parametrize(
    ("check", "severity", "command", "plant"), FOR_PEOPLE, ids=[one[0] for one in FOR_PEOPLE]
)
async def test_for_people_to_mend(
    place: Place, at_once: None, check: str, severity: str, command: str, plant: Plant
) -> None:
    """What can't be mended safely is found, with what to do, and --fix leaves it alone."""
    await plant(place)
    finding = await the_finding(place.settings, check)
    assert (finding.severity, finding.fixable) == (severity, False)
    assert command in finding.command
    assert finding.meaning
    assert finding.mend
    assert await mend(place.settings, [finding], lambda _check: None) == []
    await place.db.client["config"]["collections"].delete_many({})


async def test_consumers_that_are_gone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they left is written, they are removed, and one that reads is left alone."""
    monkeypatch.setattr(stream, "GHOST_IDLE_MS", 150)
    settings = changed(place.settings, claim_idle_ms=100)
    group = settings.consumer_group
    await store_groups.become_writer(place.db, settings.stream, group)
    await append_events(settings, 2)
    for name in ("gone-1", "gone-2"):
        reader = consumer(settings, name)
        await reader.ensure_group()
        await reader.read(1)
        await reader.close()
    slot = await Slot.take(settings.redis_url, place.keys, group, "alive")
    names = [slot.name, "gone-1", "gone-2"]
    await place.link.call("XGROUP", "CREATECONSUMER", settings.stream, group, slot.name)
    assert await consumers_of(place, group) == names
    await asyncio.sleep(0.2)
    finding = await the_finding(settings, "ghost_consumers")
    assert (finding.severity, finding.fixable) == (WARNING, True)
    assert finding.what.endswith("gone-1, gone-2; entries pending under their names: 2")
    done = await mended(settings)
    assert done[0].startswith("took over 2 events")
    assert {"gone-1", "gone-2"} == {line.split()[2] for line in done if "removed" in line}
    assert await consumers_of(place, group) == [slot.name]
    assert await place.db[schema.EVENTS].count_documents({}) == 2
    await slot.release()


async def consumers_of(place: Place, group: str) -> list[str]:
    """Return the consumers of a group, by name."""
    rows = await place.link.call("XINFO", "CONSUMERS", place.settings.stream, group)
    return sorted(row[1].decode() for row in rows)


async def test_consumers_without_anything(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that is gone and owns nothing is a note; removing it changes nothing else."""
    monkeypatch.setattr(stream, "GHOST_IDLE_MS", 50)
    await drain(place.settings)
    group = place.settings.consumer_group
    before = await everything(place)
    await place.link.call("XGROUP", "CREATECONSUMER", place.settings.stream, group, "gone")
    await asyncio.sleep(0.06)
    assert (await the_finding(place.settings, "ghost_consumers")).severity == NOTE
    assert await mended(place.settings) == [f"removed consumer gone of group {group}"]
    assert await everything(place) == before


async def test_consumers_beside_a_group_that_is_lost(
    place: Place, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group that the stream lacks has no consumers; those of the others are removed."""
    monkeypatch.setattr(stream, "GHOST_IDLE_MS", 0)
    await drain(place.settings)
    group = place.settings.consumer_group
    await place.link.call("XGROUP", "CREATECONSUMER", place.settings.stream, group, "gone")
    await group_is_gone(place)
    [done] = await mend(
        place.settings, (await examined(place.settings)).fixable, lambda _check: None
    )
    assert (done.done, done.failed) == ([f"removed consumer gone of group {group}"], None)


async def test_consumers_of_another_program(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another program's consumers left pending is told, and is that program's to mend."""
    monkeypatch.setattr(stream, "GHOST_IDLE_MS", 0)
    await append_events(place.settings, 1)
    await drain(place.settings)
    await place.link.call("XGROUP", "CREATE", place.settings.stream, "theirs", "0")
    read = ("XREADGROUP", "GROUP", "theirs", "\x1b[31mevil", "STREAMS", place.settings.stream, ">")
    await place.link.call(*read)
    finding = await the_finding(place.settings, "ghost_consumers")
    assert (finding.severity, finding.fixable, finding.command) == (WARNING, False, "")


async def test_own_group_is_made_anew(place: Place, at_once: None) -> None:
    """Where the group of the settings is missing, no command deletes it: its workers make it."""
    own = place.settings.consumer_group
    await ensure_group(place.link, place.keys, own)
    await place.link.call("XGROUP", "DESTROY", place.settings.stream, own)
    assert (await the_finding(place.settings, "group_missing")).command == "evp work"


async def test_names_of_any_bytes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no UTF-8 ends no check; such a group can be deleted as it is told."""
    monkeypatch.setattr(stream, "GHOST_IDLE_MS", 0)
    await append_events(place.settings, 1)
    await drain(place.settings)
    at, own = place.settings.stream, place.settings.consumer_group
    await place.link.call("XGROUP", "CREATE", at, b"odd \xff", "$")
    await place.link.call("XGROUP", "CREATECONSUMER", at, own, b"\xc3")
    assert "and own nothing: \\xc3" in (await the_finding(place.settings, "ghost_consumers")).what
    assert "removed consumer \\xc3 of group evp-workers-group" in await mended(place.settings)
    assert await existing_groups(place.link, place.keys) == {own, "odd \\xff"}
    # Another one may have the very name by which it is told: that one is meant first.
    await place.link.call("XGROUP", "CREATE", at, b"odd \\xff", "$")
    assert await delete_group(place.link, place.keys, "odd \\xff")
    groups = await place.link.call("XINFO", "GROUPS", at)
    assert {one[1] for one in groups} == {own.encode(), b"odd \xff"}
    assert await delete_group(place.link, place.keys, "odd \\xff")
    assert await existing_groups(place.link, place.keys) == {own}


async def test_fault_of_ours(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that fails is told as not made, by what ended it; the others are made."""
    monkeypatch.setattr(log_state, "memory", lambda _link: 1 / 0)
    await place.link.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with capture_logs() as logged:
        report = await examined(place.settings)
    assert [one["check"] for one in logged] == ["memory_filling"]
    [missed] = report.not_checked
    assert (missed.check, "ZeroDivisionError" in missed.why) == ("memory_filling", True)
    assert [one.check for one in report.findings if one.check != "few_files"] == ["evicts"]


async def test_what_is_done_is_trimmed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that every group has done with are trimmed once, and nothing that one needs."""
    await append_events(place.settings, 4)
    await drain(place.settings)
    await append_events(place.settings, 1, first=4)
    at_once = changed(place.settings, log_retention_s=0)
    monkeypatch.setattr(stream, "TRIM_LATE_S", -1.0)
    finding = await the_finding(at_once, "not_trimmed")
    assert finding.fixable
    assert await mended(at_once) == ["trimmed 4 entries that every group has done with"]
    assert await place.link.call("XLEN", place.settings.stream) == 1


async def test_what_fits_into_retention_stays(place: Place) -> None:
    """What is done and may still be read again is no finding; more than its bytes is one."""
    await append_events(place.settings, 4)
    await drain(place.settings)
    assert (await examined(place.settings)).findings == []
    await the_finding(changed(place.settings, log_retention_bytes=10), "not_trimmed")


async def test_ledger_that_the_log_alone_has(place: Place, at_once: None) -> None:
    """How far a server got that is gone is carried to the store; one that gets on is no finding."""
    record = Record(b"\x05" * 8, 3, 30)
    await record_epochs(place.link, place.keys, [record])
    finding = await the_finding(place.settings, "ledger_behind")
    assert (finding.fixable, record.srv.hex() in finding.what) == (True, True)
    assert await mended(place.settings) == ["carried to the store how far server epochs got: 1"]
    [row] = await documents(place.db, schema.SERVERS)
    assert (row["_id"], row["seq"], row["events"]) == (record.srv, 3, 30)


async def test_worker_that_is_silent(
    place: Place, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is held without a heartbeat is told; one that beats late is not."""
    settings, group = place.settings, place.settings.consumer_group
    slot = await Slot.take(settings.redis_url, place.keys, group, "worker")
    reader = consumer(settings, slot.name)
    await reader.ensure_group()
    await append_events(settings, 1)
    await reader.read(1)
    facts: dict[str, Any] = {"host": "far", "pid": 77}
    await record_worker(place.db, group, slot.name, facts, within_s=5.0)
    old = {"$set": {"seen_at": now() - timedelta(seconds=90)}}
    await place.db[schema.WORKERS].update_one({}, old)
    finding = await the_finding(settings, "silent_worker")
    assert "worker-1 (pid 77 on far)" in finding.what
    # That process id is of another machine; here it is somebody else.
    assert (finding.command, "end it on far, with kill -9" in finding.mend) == ("", True)
    facts["pid"] = os.getpid()
    await record_worker(place.db, group, slot.name, facts, within_s=5.0)
    await place.db[schema.WORKERS].update_one({}, old)
    assert (await the_finding(settings, "silent_worker")).command == f"kill -9 {os.getpid()}"

    async def beats_late(*wanted: Any) -> list[dict[str, Any]]:
        found = await worker_records(*wanted)
        await record_worker(place.db, group, slot.name, facts, within_s=5.0)
        return found

    monkeypatch.setattr(work, "worker_records", beats_late)
    assert (await examined(settings)).findings == []
    await slot.release()
    await reader.close()


async def test_collections_and_indexes(place: Place) -> None:
    """What is missing of the schema is named, and made as a worker makes it."""
    before = await everything(place)
    await place.db.drop_collection(schema.ATTEMPTS)
    await the_finding(place.settings, "collections_missing")
    await place.db[schema.FRAMES].drop_index("bucket_1")
    await place.db[schema.REFRESH_TOKENS].drop_index("expires_at_1")
    found = {one.check: one.what for one in (await examined(place.settings)).findings}
    assert found == {
        "collections_missing": "collections are missing: attempts",
        "indexes_missing": "indexes are missing: frames.bucket_1, refresh_tokens.expires_at_1",
    }
    assert sorted(await mended(place.settings)) == [
        "made collection attempts",
        "made index bucket_1 of frames",
        "made index expires_at_1 of refresh_tokens",
    ]
    after = await everything(place)
    assert {name: sorted(map(str, rows)) for name, rows in after["indexes"].items()} == {
        name: sorted(map(str, rows)) for name, rows in before["indexes"].items()
    }


async def test_index_that_expires_nothing(place: Place) -> None:
    """An index that lacks the option by which it removes what has expired is another one."""
    await place.db[schema.REFRESH_TOKENS].drop_index("expires_at_1")
    await place.db[schema.REFRESH_TOKENS].create_index("expires_at")
    await the_finding(place.settings, "index_different")


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"mongo_url": "{mongo_url}&w=1&journal=false"}, "weak_address"),
        ({"redis_url": "redis://127.1:{log_port}/0"}, "no_memory_limit"),
    ],
)
async def test_addresses(place: Place, log: Server, changes: dict[str, str], check: str) -> None:
    """An address that promises less, a log elsewhere without a limit."""
    known = {"mongo_url": place.settings.mongo_url, "log_port": log.port}
    given = {name: value.format(**known) for name, value in changes.items()}
    finding = await the_finding(changed(place.settings, **given), check)
    assert finding.severity == (WARNING if check == "no_memory_limit" else NOTE)


async def test_store_that_is_alone(place: Place) -> None:
    """In production a store that is one server is a note; a replica set, as in containers, none."""
    is_alone = "setName" not in await place.db.client.admin.command("hello")
    found = (await examined(changed(place.settings, env="production"))).findings
    assert [(one.check, one.severity) for one in found] == [("store_alone", NOTE)] * is_alone


@pytest.mark.parametrize(("ahead_ms", "severity"), [(-60_000, WARNING), (3_600_000, ERROR)])
async def test_clocks(
    place: Place, monkeypatch: pytest.MonkeyPatch, ahead_ms: int, severity: str
) -> None:
    """Clocks that are apart are told, each with how far and which way."""
    monkeypatch.setattr(machine, "now_ms", lambda: now_ms() - ahead_ms)
    found = [one for one in (await examined(place.settings)).findings if one.check != "few_files"]
    assert {one.check: one.severity for one in found} == {
        "log_clock": severity,
        "store_clock": severity,
    }
    assert all(("ahead of" if ahead_ms > 0 else "behind") in one.what for one in found)


@pytest.mark.parametrize(("env", "severity"), [("development", NOTE), ("production", WARNING)])
async def test_open_files(place: Place, env: str, severity: str) -> None:
    """A limit below what a server could use is told, with how many connections that leaves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, hard))
    try:
        report = await examined(changed(place.settings, env=env))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    [finding] = [one for one in report.findings if one.check == "few_files"]
    assert finding.severity == severity
    assert "holds 928 connections instead of 4,096" in finding.meaning


async def test_append_only_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has grown is told, and so is a rewrite that failed."""
    await append_events(place.settings, 1)
    await drain(place.settings)
    monkeypatch.setattr(log_state, "GROWN_BYTES_MIN", 1)
    assert "BGREWRITEAOF" in (await the_finding(place.settings, "aof_grown")).command
    monkeypatch.undo()
    await fail_rewrite(place.link)
    await the_finding(place.settings, "aof_rewrite_failed")
    await rewrite(place.link, "ok")


async def fail_rewrite(link: Link) -> None:
    """Have a rewrite of the append-only file begin, and kill it."""
    await link.call("CONFIG", "SET", "rdb-key-save-delay", 1_000_000)
    pid = int((await link.call("INFO", "server")).decode().partition("process_id:")[2].split()[0])
    await link.call("BGREWRITEAOF")
    await until(lambda: bool(psutil.Process(pid).children()), what="it is rewritten")
    for child in psutil.Process(pid).children():
        child.kill()
    await until_rewritten(link, "err")
    await link.call("CONFIG", "SET", "rdb-key-save-delay", 0)


async def rewrite(link: Link, status: str) -> None:
    """Have the append-only file rewritten."""
    await link.call("BGREWRITEAOF")
    await until_rewritten(link, status)


async def until_rewritten(link: Link, status: str) -> None:
    """Wait until a rewrite has ended, well or not."""

    async def ended() -> bool:
        told = (await link.call("INFO", "persistence")).decode()
        idle = "aof_rewrite_in_progress:0" in told and "aof_rewrite_scheduled:0" in told
        return idle and f"aof_last_bgrewrite_status:{status}" in told

    await until(ended, what="the rewrite has ended")


async def test_log_that_is_no_log(place: Place, log: Server, tmp_path: Path) -> None:
    """A replica is told with its primary; a server that lacks a command, with that command."""
    replica = await asyncio.to_thread(own_log, tmp_path, "--replicaof", f"127.0.0.1 {log.port}")
    old = await asyncio.to_thread(own_log, tmp_path / "old", "--rename-command", "WAITAOF", "")
    try:
        await asyncio.to_thread(replica.start)
        report = await examined(changed(place.settings, redis_url=replica.url))
        assert report.findings[0].check == "log_is_replica"
        assert f"replica of 127.0.0.1:{log.port}" in report.findings[0].what
        assert report.away == {}
        await asyncio.to_thread(old.start)
        on_old = changed(place.settings, redis_url=old.url)
        assert "does not know WAITAOF" in (await the_finding(on_old, "too_old")).what
        async with Link.opened(old.url) as link:
            await link.call("CONFIG", "SET", "appendfsync", "everysec")
        found = [one.check for one in (await examined(on_old)).findings]
        assert found == ["too_old", "aof_not_synced"]
    finally:
        await asyncio.to_thread(replica.kill)
        await asyncio.to_thread(old.kill)


LEAST_RIGHTS = (
    "+@read", "+config|get", "+info", "+role", "+command", "+type", "+time", "+memory|usage",
    "+xinfo", "+xpending", "+evalsha", "+script|load", "+xgroup|create", "+xautoclaim", "+del",
    "+zrem", "+zremrangebyscore", "+waitaof",
)  # fmt: skip


async def test_rights(place: Place, log: Server) -> None:
    """With the rights that the document names all is checked; without CONFIG, that is told."""
    await append_events(place.settings, 1)
    await drain(place.settings)
    rights = ("on", ">secret", "~*", "-@all", *LEAST_RIGHTS)
    await place.link.call("ACL", "SETUSER", "doctor", *rights)
    url = log.url.replace("redis://", "redis://doctor:secret@")
    as_doctor = changed(place.settings, redis_url=url)
    report = await examined(as_doctor)
    assert (report.findings, report.not_checked) == ([], [])
    await place.link.call("ACL", "SETUSER", "doctor", "-config|get", "-role")
    await place.link.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    report = await examined(as_doctor)
    assert [one.check for one in report.findings] == ["evicts"]
    refused = {one.check: one.why for one in report.not_checked}
    assert set(refused) == {
        "log_is_replica", "too_old", "aof_starting", "aof_not_synced", "aof_sync_pauses",
        "idle_connections_cut", "no_keepalive", "aof_rewritten_often",
    }  # fmt: skip
    assert all("has no permissions" in why and "secret" not in why for why in refused.values())
    [done] = await mend(as_doctor, report.fixable, lambda _check: None)
    assert (done.done, "has no permissions" in str(done.failed)) == ([], True)
    await place.link.call("ACL", "DELUSER", "doctor")


@pytest.mark.parametrize(
    ("changes", "away", "still"),
    [
        ({"redis_url": NOBODY_LOG}, {"log"}, "collections_missing"),
        ({"mongo_url": NOBODY_STORE}, {"store"}, "evicts"),
    ],
    ids=["log", "store"],
)
async def test_engine_that_is_away(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    away: set[str],
    still: str,
) -> None:
    """Without one engine the other is checked all the same, and what was not is told."""
    monkeypatch.setattr(client, "STORE_SELECT_MS_MAX", 200)
    await place.db.drop_collection(schema.ATTEMPTS)
    await place.link.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    report = await examined(changed(place.settings, **changes))
    assert set(report.away) == away
    assert [one.check for one in report.findings if one.check != "few_files"] == [still]
    assert {one.why for one in report.not_checked} == {f"the {one} is away" for one in away}


async def test_fewer_partitions_than_there_are(place: Place) -> None:
    """Streams that servers with these settings leave alone are told; that may be meant."""
    await note(place.link, place.keys, 3)
    finding = await the_finding(place.settings, "partitions_lowered")
    assert (finding.severity, finding.where) == (NOTE, "")
    assert "write to 1 of 3 partitions" in finding.what


async def test_each_partition_and_each_server(
    place: Place, own_log_server: Server, monkeypatch: pytest.MonkeyPatch, at_once: None
) -> None:
    """Each stream and each server is looked at and mended by itself, and told by its name."""
    three = changed(place.settings, partitions=3)
    move(monkeypatch, three, 1, own_log_server)
    there = await Link.open(own_log_server.url)
    await there.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await record_epochs(place.link, Keys(three.stream, 2), [Record(b"12345678", 1, 1)])
    report = await examined(three)
    found = {one.check: one for one in report.findings}
    server = f"127.0.0.1:{own_log_server.port}"
    assert (found["evicts"].where, found["ledger_behind"].where) == (server, "partition 2")
    assert f"-p {own_log_server.port} CONFIG SET maxmemory-policy" in found["evicts"].command
    assert len(report.findings) == 2 + ("few_files" in found)
    done = await mended(three)
    assert done[0].startswith(f"{server}: set maxmemory-policy to noeviction")
    assert done[1].startswith("partition 2: carried to the store")
    [row] = await documents(place.db, schema.SERVERS)
    assert row["partition"] == 2
    await there.close()
    await asyncio.to_thread(own_log_server.kill)
    await place.link.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    report = await examined(three)
    assert list(report.away) == ["partition 1"]
    [finding] = [one for one in report.findings if one.check != "few_files"]
    assert (finding.check, finding.where) == ("evicts", "")
    assert {one.why for one in report.not_checked} == {"partition 1 is away"}
    lost = Finding(severity=WARNING, what="w", meaning="m", mend="m", fixable=True)
    lost.check, lost.where = "ledger_behind", "partition 1"
    [failed] = await mend(three, [lost], lambda _check: None)
    assert (failed.done, failed.failed) == ([], "partition 1: the log is away")


@pytest.fixture
def cluster_node(tmp_path: Path) -> Iterator[Server]:
    """A node of a cluster that is set as it is by default, and has no slots."""
    port = str(free_port())
    node = own_log(tmp_path, "--cluster-enabled", "yes", "--cluster-port", port)
    node.start()
    yield node
    node.kill()


async def test_cluster_that_stops(settings: Settings, db: Database, cluster_node: Server) -> None:
    """A node that refuses while another one is away is told, and set right."""
    [check] = [one for one in CHECKS if one.name == "cluster_stops"]
    assert check.fix is not None
    for is_right in (False, True):
        at = Deployment(changed(settings, redis_url=cluster_node.url), db)
        await at.open()
        found = await check.look(at)
        assert [one.severity for one in found] == ([] if is_right else [WARNING])
        await check.fix(at, found)
        await at.close()


async def test_log_that_hangs(place: Place, log: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that takes connections and does not answer costs one time-out, and is told."""
    monkeypatch.setattr(run, "CHECK_S_MAX", 2.0)
    with hanging(log):
        report = await examined(place.settings)
    assert report.away == {"log": "no answer within 2 s"}
    assert {one.why for one in report.not_checked} == {"the log is away"}


def test_both_are_away(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without log and store the command ends with 3, says so, and what it could not look at."""
    monkeypatch.setattr(client, "STORE_SELECT_MS_MAX", 200)
    nobody = changed(settings, redis_url=NOBODY_LOG, mongo_url=NOBODY_STORE)
    assert examine_and_tell(nobody, Options(fix=True, yes=True, json=False)) == 3
    told = capsys.readouterr().out
    assert "The log is away: can't reach the log at redis://127.0.0.1:1/0" in told
    assert "The store is away" in told
    assert max(map(len, told.splitlines())) <= 80


def test_every_check_is_planted() -> None:
    """Each check of the table stands in a test by its name, but for what no test can break."""
    text = Path(__file__).read_text(encoding="utf-8").partition("def test_every_check")[0]
    untested = {one.name for one in CHECKS if f'"{one.name}"' not in text}
    # A disk that is full, and a store that keeps nothing, are not at hand.
    assert untested == {"aof_write_failed", "store_forgets"}
