"""`evp dlq top`: letters that died alike stand together, and can be taken together."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Binary, ObjectId

from evp.cli.replaying import filters_of
from evp.cli.topping import print_top
from evp.dlq import actions as service
from evp.dlq.top import By, Top, top
from evp.storage.client import Database
from evp.storage.dlq import Filters
from evp.views.dlq_top import top_view
from tests.unit.test_views import text

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TYPE = "a 'type' of --its; own"


async def put(db: Database, count: int, **fields: Any) -> None:
    """Put letters of entries, one a second, as a worker keeps them."""
    earlier = await db["dead_letters"].count_documents({})
    letters = [
        {
            "_id": f"{earlier + number:032x}",
            "reason": "invalid_entry",
            "detail": "",
            "error": "InvalidEntry",
            "stream": "s",
            "group": "g",
            "entry": f"{number}-0",
            "attempts": 1,
            "first_at": AT + timedelta(seconds=earlier + number),
            "last_at": AT + timedelta(seconds=earlier + number),
            "payload_bytes": 10,
            "payload_sha256": "",
        }
        | {name: value(number) if callable(value) else value for name, value in fields.items()}
        for number in range(count)
    ]
    await db["dead_letters"].insert_many(letters)


async def grouped(
    db: Database,
    by: By = By.ERROR,
    most: int = 10,
    flags: Sequence[str] = (),
    counted_max: int = 100,
    **filters: Any,
) -> Top:
    """Group what is there."""
    seen = Filters(**filters)
    return await top(db, seen, by, most, flags, lambda _counted: None, counted_max=counted_max)


async def test_letters_that_died_alike_are_one_group(db: Database) -> None:
    """Ids, numbers and values make no group of their own; how many and since when is told."""
    await put(db, 4, detail=lambda number: f"entry {number}-0: unknown key 'k{number}' at {number}")
    await put(db, 2, detail="entry 1-0: another mistake")
    found = await grouped(db)
    assert [one.letters for one in found.groups] == [4, 2]
    first = found.groups[0]
    assert first.pattern == "entry <n>: unknown key '…' at <n>"
    assert (first.first_at, first.last_at) == (AT, AT + timedelta(seconds=3))
    assert (first.example, first.reason) == (f"{3:032x}", "invalid_entry")
    assert (found.counted, found.groups_total, found.others, found.more) == (6, 2, 0, False)
    assert "mend that program" in first.mend


async def test_the_flags_choose_the_group(db: Database) -> None:
    """What a group says how to take it takes just its letters, whatever the values are."""
    await put(db, 3, detail="no such field 'a'", type=TYPE)
    await put(db, 2, detail="too long", type="t", source="s")
    await put(db, 1, detail="too long", source="s", reason="bad_value")
    for by in By:
        found = await grouped(db, by, flags=("--since", "2026-01-01T00:00:00Z"))
        assert sum(one.letters for one in found.groups) == 6
        for group in found.groups:
            if group.select is None:
                assert group.key is None
                continue
            parts = shlex.split(group.select)
            flags = dict(zip(parts[::2], parts[1::2], strict=True))
            filters = filters_of(
                flags.get("--reason"),
                flags.get("--type"),
                flags.get("--source"),
                flags.get("--since"),
                None,
                None,
                error=flags.get("--error"),
            )
            chosen = await service.look(db, filters, 10)
            assert chosen.counted == group.letters
            assert group.example in {one.id for one in chosen.letters}


async def test_it_is_bounded(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are so many groups, so many letters are looked at, and what is left out is told."""
    words = ["alpha", "beta", "gamma", "delta"]
    await put(db, 8, detail=lambda number: words[number % 4])
    monkeypatch.setattr("evp.dlq.top.DEAD_LETTER_GROUPS_MAX", 3)
    found = await grouped(db, most=2)
    assert (found.groups_total, len(found.groups), found.others) == (3, 2, 2)
    shown = text(top_view(found))
    assert "8 dead letters, 3 groups by error" in shown
    assert "and 1 smaller group: --limit shows more" in shown
    assert "and 2 letters of groups that were too many" in shown
    found = await grouped(db, counted_max=5)
    assert (found.counted, found.more) == (5, True)
    assert text(top_view(found)).startswith("more than 5 dead letters")


async def test_only_what_counts_as_dead_is_counted(db: Database) -> None:
    """A letter that was purged, or whose frame is not settled, is none of it."""
    await put(db, 1, detail="a")
    await put(db, 1, detail="a", purged_at=AT)
    await put(db, 1, detail="a", frame_id=ObjectId(), index=0, event_id=Binary(bytes(16), 4))
    assert [one.letters for one in (await grouped(db)).groups] == [1]
    assert (await grouped(db, reason="bad_value")).groups == []


async def test_view(db: Database) -> None:
    """Each group ends with commands to copy; a value that is no plain text gives no command."""
    await put(db, 1, type="\x1b[2J[red]", detail="\x1b[2J'\x9b'")
    shown = text(top_view(await grouped(db, By.TYPE)))
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert f"evp dlq show {0:032x}\n" in shown
    assert "evp dlq replay" not in shown
    found = await grouped(db)
    [group] = found.groups
    assert f"invalid_entry {group.key}" in text(top_view(found))
    assert f"evp dlq replay --error {group.key}\n" in text(top_view(found))
    assert text(top_view(Top(By.ERROR))) == "0 dead letters, 0 groups by error\n"


async def test_commands_are_never_broken(db: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """On a narrow terminal what is said is wrapped; a command stays one line, to be copied."""
    await put(db, 1, type="long " * 30, detail="said " * 30)
    print_top(await grouped(db, By.TYPE), json=False)
    lines = capsys.readouterr().out.splitlines()
    assert f"    evp dlq replay --type '{'long ' * 30}'" in lines
    assert max(len(line) for line in lines[1:] if "said" in line) <= 80
