"""Dead letters over HTTP: who may, how much at a time, and what is left to the command."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from evp.clock import from_ms, now_ms
from evp.http import Reply
from evp.server import letters as module
from evp.server.limits import LETTER_HERE_BYTES_MAX
from evp.settings import Settings
from evp.storage import dlq as storage
from evp.storage import schema
from evp.storage.client import Database, Document
from evp.storage.dead_letters import Origin
from evp.storage.writer import Writer
from evp.stream.client import Link
from tests.integration.test_dead_letters import refuse_all, take_all
from tests.support.make import event, frame_of
from tests.support.people import People
from tests.support.server import JSON, InProcess, request, serving
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS
from tests.support.tokens import SECRET
from tests.support.wait import until
from tests.support.workers import changed

pytestmark = MAY_LEAVE_SOCKETS

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
async def server(settings: Settings, link: Link, db: Database) -> AsyncIterator[InProcess]:
    """A server whose store has three dead letters."""
    await refuse_all(db)
    writer = Writer(db, WRITE_MS, Origin("s", "g"))
    await writer.write([frame_of(event(1, type=HOSTILE), event(2), event(3))])
    async with serving(changed(settings, jwt_secret=SECRET)) as server:
        yield server


async def told(server: InProcess, path: str) -> Any:
    """Return what a GET is answered with."""
    reply = await server.get(path)
    assert reply.status == 200, reply.body
    return msgspec.json.decode(reply.body)


async def post(server: InProcess, body: dict[str, Any], **headers: str) -> Reply:
    """Ask for a replay."""
    sent = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
    return await server.ask(
        request(msgspec.json.encode(body), path="/dead-letters/replay", headers=sent)
    )


async def replayed(server: InProcess, **body: Any) -> Any:
    """Return what became of a replay."""
    reply = await post(server, body)
    assert reply.status == 200, reply.body
    return msgspec.json.decode(reply.body)


async def test_counted_shown_and_looked_at(server: InProcess) -> None:
    """Letters are counted, and grouped by error; a page has the newest, and one is whole."""
    page = await told(server, "/dead-letters?limit=2")
    assert (page["counted"], page["more"], len(page["letters"])) == (3, False, 2)
    assert page["by_reason"] == {"document_validation": 3}
    top = await told(server, "/dead-letters/top")
    [group] = top["groups"]
    assert (group["reason"], group["letters"]) == ("document_validation", 3)
    assert "validator" in group["mend"]
    assert (await told(server, f"/dead-letters?error={group['key']}"))["counted"] == 3
    assert (await told(server, "/dead-letters?error=0"))["counted"] == 0
    found = await told(server, "/dead-letters?type=%3Cscript%3Ealert(1)%3C/script%3E")
    [letter] = found["letters"]
    shown = await told(server, f"/dead-letters/{letter['id']}")
    assert shown["whole"]
    assert shown["event"]["type"] == HOSTILE
    assert shown["letter"]["detail"] == letter["detail"]


async def test_refused(server: InProcess) -> None:
    """What makes no sense is refused; a letter that is not there is not found."""
    for path, status, code in (
        ("?reason=bad_luck", 422, "invalid_query"),
        ("?limit=101", 422, "invalid_query"),
        ("?page=2", 422, "invalid_query"),
        ("/top?by=luck", 422, "invalid_query"),
        ("/nonsense", 404, "not_found"),
        (f"/{'0' * 24}:1", 404, "not_found"),
    ):
        reply = await server.get(f"/dead-letters{path}")
        assert (reply.status, reply.code) == (status, code), path


async def test_only_who_administers_replays(server: InProcess) -> None:
    """Who may read looks at letters and replays none; a stranger, or another site, does neither."""
    crowd = People(server, "")
    await crowd.add("anna")
    await crowd.add("root", "admin")
    anna, root = (
        crowd.tokens.make(name, 1, [scope]) for name, scope in (("anna", "read"), ("root", "admin"))
    )
    bearer = {"authorization": f"Bearer {anna}"}
    assert (await server.get("/dead-letters", headers=bearer)).status == 200
    assert (await server.get("/dead-letters", headers={})).code == "unauthenticated"
    cases = [
        ({"authorization": f"Bearer {anna}"}, "forbidden"),
        ({"cookie": f"evp_access={root}", "sec-fetch-site": "cross-site"}, "unauthenticated"),
        ({}, "unauthenticated"),
    ]
    content = {"content-type": "application/json"}
    for headers, code in cases:
        sent = request(b"{}", path="/dead-letters/replay", headers=content | headers)
        assert (await server.ask(sent)).code == code
    cookie = {"cookie": f"evp_access={root}", "sec-fetch-site": "same-origin"}
    sent = request(b"{}", path="/dead-letters/replay", headers=content | cookie)
    assert (await server.ask(sent)).status == 200
    await crowd.close()


async def test_replay(server: InProcess, db: Database) -> None:
    """Unasked it only counts; what is refused again stays and is not tried twice; the rest goes."""
    [group] = (await told(server, "/dead-letters/top"))["groups"]
    counted = await replayed(server, reason="document_validation", error=group["key"])
    account = counted["account"]
    assert (account["dry_run"], account["selected"], account["done"]) == (True, 3, 0)
    again = await replayed(server, dry_run=False, until=counted["until"])
    assert again["account"]["refused"] == {"document_validation": 3}
    assert again["account"]["finished"]
    await take_all(db)
    # They were refused after that moment.
    none = await replayed(server, dry_run=False, until=counted["until"])
    assert (none["account"]["selected"], none["account"]["finished"]) == (0, True)
    done = await replayed(server, dry_run=False)
    assert (done["account"]["done"], done["account"]["stored"]) == (3, 3)
    assert await db[schema.EVENTS].count_documents({}) == 3
    assert (await told(server, "/dead-letters"))["counted"] == 0


async def test_one_by_its_id(server: InProcess, db: Database) -> None:
    """One letter is delivered alone; one that is not there is told to be missing."""
    [letter, *_] = (await told(server, "/dead-letters"))["letters"]
    await take_all(db)
    gone = f"{'0' * 24}:0"
    counted = await replayed(server, ids=[letter["id"], gone])
    assert counted["account"]["selected"] == 1
    assert counted["account"]["missing"] == [gone]
    done = await replayed(server, ids=[letter["id"]], dry_run=False)
    assert done["account"]["done"] == 1
    assert (await told(server, "/dead-letters"))["counted"] == 2
    reply = await post(server, {"ids": ["nonsense"]})
    assert (reply.status, reply.code) == (422, "invalid_body")


async def test_what_could_end_the_server_is_left_to_the_command(
    server: InProcess, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poison and large letters stay, with the command that delivers them; others are delivered."""
    await take_all(db)
    first, second, _ = (await told(server, "/dead-letters"))["letters"]
    await db[schema.DEAD_LETTERS].update_one({"_id": first["id"]}, {"$set": {"reason": "poison"}})
    size = {"$set": {"payload_bytes": LETTER_HERE_BYTES_MAX + 1}}
    await db[schema.DEAD_LETTERS].update_one({"_id": second["id"]}, size)
    account = (await replayed(server, dry_run=False))["account"]
    assert (account["done"], account["stored"]) == (1, 1)
    assert account["refused"] == {"poison": 1, "document_validation": 1}
    by_id = {one["id"]: one["detail"] for one in account["examples"]}
    assert f"evp dlq replay {first['id']}" in by_id[first["id"]]
    assert f"evp dlq replay {second['id']}" in by_id[second["id"]]
    shown = await told(server, f"/dead-letters/{second['id']}")
    assert (shown["event"], shown["payload_hex"], shown["whole"]) == (None, None, False)


async def test_replay_is_bounded_in_time(
    server: InProcess, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request ends after a while in whole steps, says that it is not done, and can be gone on."""
    await take_all(db)
    monkeypatch.setattr(module, "REPLAY_LETTERS_PER_S", 0.5)
    monkeypatch.setattr(module, "REPLAY_S_MAX", 1.5)
    account = (await replayed(server, dry_run=False))["account"]
    assert (account["done"], account["finished"]) == (1, False)
    monkeypatch.setattr(module, "REPLAY_LETTERS_PER_S", 200.0)
    account = (await replayed(server, dry_run=False))["account"]
    assert (account["done"], account["finished"]) == (2, True)


async def test_replay_goes_on_below_what_stays(
    server: InProcess, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stays is tried once, however many requests it takes: older letters have their turn."""
    await take_all(db)
    first, second, last = (await told(server, "/dead-letters"))["letters"]
    stay = {"_id": {"$in": [first["id"], second["id"]]}}
    await db[schema.DEAD_LETTERS].update_many(stay, {"$set": {"reason": "poison"}})
    monkeypatch.setattr(module, "REPLAY_LETTERS_PER_S", 0.1)
    monkeypatch.setattr(module, "REPLAY_S_MAX", 0.7)
    place: dict[str, Any] = {}
    for refused, done in (({"poison": 1}, 0), ({"poison": 1}, 0), ({}, 1)):
        found = await replayed(server, dry_run=False, **place)
        assert (found["account"]["refused"], found["account"]["done"]) == (refused, done)
        place = {name: found[name] for name in ("until", "after")}
    assert place["after"] == last["id"]
    found = await replayed(server, dry_run=False, **place)
    assert (found["account"]["selected"], found["account"]["finished"]) == (0, True)


async def test_replay_gets_past_what_is_not_wanted(
    server: InProcess, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that finds no letter in its time tells how far it got."""
    pages = storage._rows

    async def slowly(*given: Any) -> AsyncIterator[list[Document]]:
        async for page in pages(*given):
            await asyncio.sleep(0.3)
            yield page

    rows = await db[schema.DEAD_LETTERS].find().to_list()
    for row, age_ms in zip(rows, (2_000, 60_000, 3_600_000), strict=True):
        at = {"$set": {"last_at": from_ms(now_ms() - age_ms)}}
        await db[schema.DEAD_LETTERS].update_one({"_id": row["_id"]}, at)
    monkeypatch.setattr(storage, "_rows", slowly)
    monkeypatch.setattr(module, "REPLAY_S_MAX", 0.8)
    place: dict[str, Any] = {}
    got_to = []
    for _ in range(10):
        found = await replayed(server, dry_run=False, error="none", **place)
        place = {name: found[name] for name in ("until", "after")}
        got_to.append(place["after"])
        if found["account"]["finished"]:
            break
    assert len(got_to) > 1
    assert got_to[-1] == rows[-1]["_id"]


async def test_replay_ends_with_the_server(
    server: InProcess, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is about to stop delivers what it has begun, says how far it got, and ends."""
    await take_all(db)
    monkeypatch.setattr(module, "REPLAY_LETTERS_PER_S", 0.1)
    asking = asyncio.create_task(replayed(server, dry_run=False))

    async def one_is_stored() -> bool:
        return await db[schema.EVENTS].count_documents({}) == 1

    await until(one_is_stored, what="one is delivered")
    started_at_s = time.monotonic()
    server.stop()
    account = (await asking)["account"]
    assert (account["done"], account["finished"]) == (1, False)
    await server.task
    assert time.monotonic() - started_at_s < 8
