"""`evp init` as a person runs it: what it says, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.commands import evp


def test_init(shared: dict[str, str], stored: Any, tmp_path: Path) -> None:
    """It says what is missing, makes it, and has nothing to do the next time; always exit 0."""
    planned = evp("init", "--dry-run", environ=shared, cwd=tmp_path)
    assert (planned.code, planned.err) == (0, "")
    assert "nothing was changed" in planned.out
    assert max(len(line.rstrip()) for line in planned.out.splitlines()) <= 80
    assert stored.list_collection_names() == []
    made = json.loads(evp("init", "--json", environ=shared, cwd=tmp_path).out)
    assert {step["state"] for step in made["steps"]} == {"made"}
    assert "events" in stored.list_collection_names()
    again = evp("init", environ=shared, cwd=tmp_path)
    assert (again.code, again.out.splitlines()[-1]) == (0, "all is there")


def test_wrong_shard_key(shared: dict[str, str], stored: Any, tmp_path: Path) -> None:
    """A collection that is sharded by something else is wrong use, told in one line."""
    row = {"_id": f"{stored.name}.events", "key": {"type": 1}}
    stored.client["config"]["collections"].insert_one(row)
    try:
        done = evp("init", environ=shared, cwd=tmp_path)
    finally:
        stored.client["config"]["collections"].delete_one({"_id": row["_id"]})
    assert (done.code, done.out) == (2, "")
    assert "events is sharded by" in done.one_line
