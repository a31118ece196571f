"""A log's file that lost its end, or has a wrong bit: refused or told, never stored as it is."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evp.settings import Settings
from evp.storage.client import Database, connect, database
from evp.storage.schema import ensure
from evp.verify.report import Kind, Report
from tests.support.make import event
from tests.support.servers import ProcessServer, program_log
from tests.support.stores import documents
from tests.support.verifying import accepting, clean, look, the_finding
from tests.support.workers import changed, drain

pytestmark = pytest.mark.usefixtures("verify_at_once")

FRAMES = 5
FLIPS = 60


@pytest.fixture
def log_folder(tmp_path: Path) -> Path:
    """Where the log's files are."""
    return tmp_path / "log"


@pytest.fixture
def log_server(log_folder: Path) -> Iterator[ProcessServer]:
    """A log that runs as a program, with files to look at and to damage."""
    server = program_log(log_folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def log_url(log_server: ProcessServer) -> str:
    """Address of that log, for the settings."""
    return log_server.url


@pytest.fixture
async def accepted(settings: Settings, db: Database) -> dict[str, Any]:
    """Five frames of one event each, accepted and recorded; what each event holds, by its id."""
    events = [event(number) for number in range(FRAMES)]
    async with accepting(settings) as server:
        await server.frames(*([one] for one in events))
        await server.end_well(db)
    return {one["id"]: one["data"] for one in events}


def file_of(folder: Path) -> Path:
    """Return the file to which the log adds."""
    [path] = (folder / "appendonlydir").glob("*.incr.aof")
    return path


async def restart(server: ProcessServer) -> None:
    """Start the log again with what its files hold. Raises AssertionError if it refuses."""
    await asyncio.to_thread(server.start)


async def stored(db: Database) -> dict[str, Any]:
    """Return what is stored: what each event holds, by its id."""
    return {one["id"]: one["data"] for one in await documents(db, "events")}


async def test_end_that_was_not_synced_is_cut_off(
    log_server: ProcessServer,
    log_folder: Path,
    accepted: dict[str, Any],
    settings: Settings,
    db: Database,
) -> None:
    """Half a command at the end, of an append that nobody was promised, costs nothing else."""
    log_server.kill()
    append_half(file_of(log_folder))
    await restart(log_server)
    await drain(settings)
    assert await stored(db) == accepted
    await clean(settings)


async def test_end_that_was_synced_and_is_gone(
    log_server: ProcessServer,
    log_folder: Path,
    accepted: dict[str, Any],
    settings: Settings,
    db: Database,
) -> None:
    """The log starts on a file whose end is gone; `verify` names what was answered with 202."""
    log_server.kill()
    path = file_of(log_folder)
    os.truncate(path, path.read_bytes().rindex(b"docs") + 20)
    await restart(log_server)
    await drain(settings)
    assert await stored(db) == {f"e{number}": accepted[f"e{number}"] for number in range(4)}
    hole = await the_finding(settings)
    assert (hole.kind, hole.first_seq, hole.last_seq, hole.events) == (Kind.HOLE, 5, 5, 1)


async def test_half_an_append_amid_the_files(
    log_server: ProcessServer,
    log_folder: Path,
    accepted: dict[str, Any],
    settings: Settings,
    db: Database,
) -> None:
    """Left where the power failed during a rewrite, it keeps the log from its first start only."""
    log_server.kill()
    path = file_of(log_folder)
    append_half(path)
    following = path.with_name("appendonly.aof.2.incr.aof")
    following.touch()
    with path.with_name("appendonly.aof.manifest").open("a", encoding="utf-8") as manifest:
        manifest.write(f"file {following.name} seq 2 type i\n")
    with pytest.raises(AssertionError, match="truncated file is not the last file"):
        await restart(log_server)
    await restart(log_server)
    await drain(settings)
    assert await stored(db) == accepted
    await clean(settings)


async def test_flipped_bit_in_a_frame(
    log_server: ProcessServer,
    log_folder: Path,
    accepted: dict[str, Any],
    settings: Settings,
    db: Database,
) -> None:
    """The log can't see it; a worker can: a dead letter, told by `verify`, and no document."""
    log_server.kill()
    flip(file_of(log_folder), file_of(log_folder).read_bytes().index(b"page_view"))
    await restart(log_server)
    await drain(settings)
    assert await stored(db) == {f"e{number}": accepted[f"e{number}"] for number in range(1, 5)}
    damaged = await the_finding(settings)
    assert (damaged.kind, damaged.first_seq, damaged.events) == (Kind.DAMAGED, 1, 1)
    [letter] = await documents(db, "dead_letters")
    assert letter["reason"] == "corrupt_frame"


async def test_flipped_bit_between_frames(
    log_server: ProcessServer, log_folder: Path, accepted: dict[str, Any], settings: Settings
) -> None:
    """Where the file no longer reads as commands the log refuses to start, and loses nothing."""
    log_server.kill()
    path = file_of(log_folder)
    place = path.read_bytes().index(b"docs") - 4
    flip(path, place)
    with pytest.raises(AssertionError, match="Bad file format"):
        await restart(log_server)
    flip(path, place)
    await restart(log_server)
    await drain(settings)
    await clean(settings)


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_flipped_bit_anywhere(
    log_server: ProcessServer,
    log_folder: Path,
    accepted: dict[str, Any],
    settings: Settings,
) -> None:
    """Wherever a bit flips: the log refuses, or each event is stored as it was, or is told."""
    log_server.kill()
    whole = file_of(log_folder).read_bytes()
    dice = random.Random(20)
    refused = 0
    # Another version stays pending, with an alarm, for a newer evp to read.
    versions = {found.end() for found in re.finditer(rb"\$1\r\nv\r\n\$1\r\n", whole)}
    places = [place for place in range(len(whole)) if place not in versions]
    for number, place in enumerate(dice.sample(places, FLIPS)):
        path = file_of(log_folder)
        path.write_bytes(whole)
        flip(path, place, 1 << dice.randrange(8))
        try:
            await restart(log_server)
        except AssertionError:
            refused += 1
            continue
        found, report = await _settled(changed(settings, mongo_db=f"{settings.mongo_db}_{number}"))
        log_server.kill()
        wrong = {id_ for id_, data in found.items() if accepted.get(id_) != data}
        assert not wrong, (place, wrong)
        missing = len(accepted.keys() - found.keys())
        told = sum(one.events or 0 for one in report.findings)
        assert missing <= told, (place, missing, report.findings)
    assert 0 < refused < FLIPS


async def _settled(settings: Settings) -> tuple[dict[str, Any], Report]:
    """Store what the log has, in a database that knows only how far the server got; verify."""
    client = connect(settings)
    try:
        db = database(client, settings.mongo_db)
        await ensure(db)
        source = client[settings.mongo_db.rpartition("_")[0]]
        await db["servers"].insert_many(await source["servers"].find().to_list())
        await drain(settings)
        report = await look(settings)
        found = await stored(db)
        await client.drop_database(settings.mongo_db)
        return found, report
    finally:
        await client.close()


def append_half(path: Path) -> None:
    """Add the last append once more to the log's file, without its end."""
    content = path.read_bytes()
    path.write_bytes(content + content[content.rindex(b"*1\r\n$5\r\nMULTI") :][:-3])


def flip(path: Path, place: int, bits: int = 0x41) -> None:
    """Flip bits of one byte of a file."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes((byte ^ bits,)))
