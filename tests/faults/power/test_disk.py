"""The shim sees what engines do to their files, and engines keep what they promised to keep."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient, WriteConcern

from evp.engines.locate import Binary
from evp.stream.client import Link
from tests.faults.power.conftest import MakeOnDisk
from tests.faults.power.disk import CantCompile, Disk, files_of
from tests.support.servers import ProcessServer
from tests.support.wait import until, until_now

pytestmark = pytest.mark.timeout(120)

DOCUMENTS = 200
#: Written once and never synced, by design: they hold nothing that is missed.
_IDLE = {"WiredTiger.lock", "WiredTiger.basecfg"}


async def write_to_log(log: ProcessServer, count: int, *, first: int = 0) -> list[str]:
    """Append entries, one acknowledged after the other; return their ids."""
    async with Link.opened(log.url) as link:
        return [
            (await link.call("XADD", "s", "*", "n", number)).decode()
            for number in range(first, first + count)
        ]


async def entries_of(log: ProcessServer) -> list[str]:
    """Return the ids of the entries that the log has."""
    async with Link.opened(log.url) as link:
        return [entry_id.decode() for entry_id, _ in await link.call("XRANGE", "s", "-", "+")]


def insert(store: ProcessServer, count: int, *, journal: bool) -> list[int]:
    """Insert documents, one acknowledged after the other; return their ids."""
    with MongoClient[dict[str, Any]](store.url, serverSelectionTimeoutMS=10_000) as client:
        concern = WriteConcern("majority", j=True) if journal else WriteConcern(1, j=False)
        events = client["d"].get_collection("events", write_concern=concern)
        return [events.insert_one({"_id": n, "text": "x" * 500}).inserted_id for n in range(count)]


def documents_of(store: ProcessServer) -> list[int]:
    """Return the ids of the documents that the store has."""
    with MongoClient[dict[str, Any]](store.url, serverSelectionTimeoutMS=10_000) as client:
        return sorted(one["_id"] for one in client["d"]["events"].find({}, {"_id": 1}))


async def test_log_keeps_what_it_answered(log_on_disk: MakeOnDisk) -> None:
    """With `appendfsync always` a cut takes nothing that was answered, also amid a rewrite."""
    log, disk = await asyncio.to_thread(log_on_disk)
    dice = random.Random(3)
    entries: list[str] = []
    for turn in range(4):
        entries += await write_to_log(log, 50, first=50 * turn)
        async with Link.opened(log.url) as link:
            await link.call("BGREWRITEAOF")
        entries += await write_to_log(log, 50, first=50 * turn)
        await asyncio.to_thread(log.kill)
        disk.cut(dice)
        await asyncio.to_thread(log.start)
        assert await entries_of(log) == entries
    assert disk.blind == []


async def test_log_that_syncs_each_second_loses_some(log_on_disk: MakeOnDisk) -> None:
    """The control: with `appendfsync everysec` a cut takes what was answered in the last second."""
    log, disk = await asyncio.to_thread(log_on_disk, "--appendfsync", "everysec")
    entries = await write_to_log(log, 50)
    await asyncio.to_thread(log.kill)
    cut = disk.cut()
    await asyncio.to_thread(log.start)
    kept = await entries_of(log)
    assert sum(cut.lost_bytes.values()) > 0
    assert kept == entries[: len(kept)]
    assert len(kept) < len(entries)


async def test_shim_sees_every_write_of_the_log(log_on_disk: MakeOnDisk) -> None:
    """After an end in good order the disk has what the folder has, byte by byte."""
    log, disk = await asyncio.to_thread(log_on_disk)
    await write_to_log(log, 200)
    async with Link.opened(log.url) as link:
        await link.call("BGREWRITEAOF")

        async def is_written() -> bool:
            return b"aof_rewrite_in_progress:0" in await link.call("INFO", "persistence")

        await until(is_written, what="the file is rewritten")
    await write_to_log(log, 200)
    await asyncio.to_thread(log.stop)
    assert different(disk) == []
    assert disk.blind == []
    assert len(disk.syncs) > 400


def test_store_keeps_what_it_answered(store_on_disk: MakeOnDisk) -> None:
    """What is written as evp writes, with its journal, is there after a cut."""
    store, disk = store_on_disk()
    inserted = insert(store, DOCUMENTS, journal=True)
    store.kill()
    disk.cut()
    store.start()
    assert documents_of(store) == inserted
    assert disk.blind == []


def test_store_without_its_journal_loses_some(store_on_disk: MakeOnDisk) -> None:
    """The control: what nobody asked to have in the journal is not on the disk."""
    store, disk = store_on_disk(without="--sync-on-commit")
    inserted = insert(store, DOCUMENTS, journal=False)
    store.kill()
    cut = disk.cut()
    store.start()
    assert sum(cut.lost_bytes.values()) > 0
    assert len(documents_of(store)) < len(inserted)


def test_shim_sees_every_write_of_the_store(store_on_disk: MakeOnDisk) -> None:
    """After an end in good order the disk has what the folder has, byte by byte."""
    store, disk = store_on_disk()
    insert(store, DOCUMENTS, journal=True)
    store.stop()
    until_now(lambda: not store.running, what="the store has ended")
    assert disk.blind == []
    assert set(different(disk)) <= _IDLE


def different(disk: Disk) -> list[str]:
    """Return the files of a folder that are not on the disk as they are."""
    kept = disk.on_disk
    return [
        str(name)
        for name in (path.relative_to(disk.folder) for path in files_of(disk.folder))
        if not (kept / name).is_file()
        or (kept / name).read_bytes() != (disk.folder / name).read_bytes()
    ]


NEW = "f = open('a', 'wb', 0); f.write(b'1234'); "
SYNCED = NEW + "sync(f); "
PREPARED = """
import os
def sync(file): os.fsync(file.fileno())
def sync_folder(): os.fsync(os.open('.', 0))
"""
PROGRAMS: list[tuple[str, str, dict[str, bytes]]] = [
    ("never synced", NEW, {}),
    ("synced", SYNCED + "f.write(b'56')", {"a": b"1234"}),
    ("overwritten", SYNCED + "f.seek(1); f.write(b'xx')", {"a": b"1234"}),
    ("overwritten, synced", SYNCED + "f.seek(1); f.write(b'xx'); sync(f)", {"a": b"1xx4"}),
    ("cut", SYNCED + "f.truncate(2)", {"a": b"1234"}),
    ("cut, synced", SYNCED + "f.truncate(1); f.truncate(3); sync(f)", {"a": b"1\0\0"}),
    ("renamed", SYNCED + "os.rename('a', 'b')", {"a": b"1234"}),
    ("renamed, synced", SYNCED + "os.rename('a', 'b'); sync_folder()", {"b": b"1234"}),
    ("renamed to another folder", SYNCED + "os.mkdir('c'); os.rename('a', 'c/a')", {"a": b"1234"}),
    (
        "renamed to another folder, synced",
        SYNCED + "os.mkdir('c'); os.rename('a', 'c/a'); os.fsync(os.open('c', 0))",
        {"c/a": b"1234"},
    ),
    (
        "renamed over another, synced",
        "open('b', 'wb', 0).write(b'x'); sync_folder(); "
        + SYNCED
        + "os.rename('a', 'b'); sync_folder()",
        {"b": b"1234"},
    ),
    ("removed", SYNCED + "os.unlink('a')", {"a": b"1234"}),
    ("removed, synced", SYNCED + "os.unlink('a'); sync_folder()", {}),
    ("removed and made again", SYNCED + "os.unlink('a'); " + SYNCED, {"a": b"1234"}),
    ("its name alone synced", NEW + "sync_folder()", {"a": b""}),
    ("in a new folder", "os.mkdir('c'); os.chdir('c'); " + SYNCED, {"c/a": b"1234"}),
    ("by pwrite", NEW + "os.pwrite(f.fileno(), b'x', 6); sync(f)", {"a": b"1234\0\0x"}),
    (
        "with O_DSYNC",
        "f = os.open('a', os.O_CREAT | os.O_WRONLY | os.O_DSYNC); os.write(f, b'12')",
        {"a": b"12"},
    ),
    (
        "appended",
        SYNCED + "f = open('a', 'ab', 0); f.write(b'5'); sync(f); f.write(b'6')",
        {"a": b"12345"},
    ),
]


@pytest.mark.parametrize(("name", "does", "kept"), PROGRAMS, ids=[one[0] for one in PROGRAMS])
def test_what_is_on_the_disk(tmp_path: Path, name: str, does: str, kept: dict[str, bytes]) -> None:
    """A program's files after a cut are those that it was careful with."""
    disk = Disk(tmp_path / "d")
    try:
        python = disk.under(Binary("python", [sys.executable, "-c", PREPARED + does], "this one"))
    except CantCompile as error:
        pytest.skip(str(error))
    subprocess.run(python.command, cwd=disk.folder, check=True)
    disk.cut()
    files = files_of(disk.folder)
    assert {str(one.relative_to(disk.folder)): one.read_bytes() for one in files} == kept, name
