"""`evp groups`: which groups there are, which one holds the log back; made, set and deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from redis import Redis

from evp.settings import Settings
from tests.e2e.commands import background, evp
from tests.e2e.log import groups_in_log
from tests.support.streams import append_events

GROUP = "evp-workers-group"


@pytest.fixture
def log(shared: dict[str, str], settings: Settings) -> Iterator[Any]:
    """The log, with thirty events that a worker has stored and another group has not read."""
    asyncio.run(append_events(settings, 30, each=10))
    with Redis.from_url(shared["EVP_REDIS_URL"]) as client:
        client.xgroup_create(settings.stream, "analytics", id="0")
        yield client
    with MongoClient[Any](shared["EVP_MONGO_URL"]) as store:
        store.drop_database(shared["EVP_MONGO_DB"])


def rows(shared: dict[str, str], cwd: Path) -> dict[str, Any]:
    """Return what `evp groups list --json` tells, by name."""
    done = evp("groups", "list", "--json", environ=shared, cwd=cwd)
    assert done.code == 0
    return {row["name"]: row for row in json.loads(done.out)}


def test_none_yet(shared: dict[str, str], tmp_path: Path) -> None:
    """Before the first worker there is none, and that is said."""
    done = evp("groups", "list", environ=shared, cwd=tmp_path)
    assert (done.code, done.out) == (0, "no groups yet; the first `evp work` makes one\n")


def test_the_one_that_holds_the_log_is_named(
    shared: dict[str, str], log: Any, tmp_path: Path
) -> None:
    """A foreign group that reads nothing pins the log; the workers' group does not."""
    assert evp("work", "--burst", environ=shared, cwd=tmp_path).code == 0
    found = rows(shared, tmp_path)
    assert found["analytics"]["pins"]
    assert (found["analytics"]["writes"], found["analytics"]["registered"]) == (False, False)
    assert found["analytics"]["lag_events"] == 30
    assert (found[GROUP]["writes"], found[GROUP]["registered"]) == (True, True)
    assert (found[GROUP]["pins"], found[GROUP]["lag_events"]) == (False, 0)
    text = evp("groups", "list", environ=shared, cwd=tmp_path).out
    assert [line.split()[-1] for line in text.splitlines() if "analytics" in line] == ["yes"]


def test_a_missing_group_is_told(
    shared: dict[str, str], settings: Settings, log: Any, tmp_path: Path
) -> None:
    """A group that is known and gone from the stream stands in the list until it is deleted."""
    assert evp("work", "--burst", environ=shared, cwd=tmp_path).code == 0
    log.xgroup_destroy(settings.stream, GROUP)
    missing = rows(shared, tmp_path)[GROUP]
    assert (missing["exists"], missing["pins"]) == (False, True)
    text = evp("groups", "list", environ=shared, cwd=tmp_path).out
    assert "missing: nothing is trimmed until it is made again, or deleted" in text


def test_deleting(shared: dict[str, str], log: Any, tmp_path: Path) -> None:
    """Without --yes nothing happens where nobody can be asked; with it the group is gone."""
    asked = evp("groups", "delete", "analytics", environ=shared, cwd=tmp_path)
    assert asked.code == 2
    assert "30 events waiting; add --yes" in asked.one_line
    done = evp("groups", "delete", "analytics", "--yes", environ=shared, cwd=tmp_path)
    assert (done.code, done.out) == (0, "group analytics is deleted; 30 events waited for it\n")
    assert "analytics" not in groups_in_log(shared)
    again = evp("groups", "delete", "analytics", "--yes", environ=shared, cwd=tmp_path)
    assert again.code == 2
    assert "there is no group analytics" in again.one_line


def test_a_group_in_use_is_not_deleted(shared: dict[str, str], log: Any, tmp_path: Path) -> None:
    """While a worker reads by it, a group stays, unless that is forced."""
    with background("work", environ=shared, cwd=tmp_path, name="work") as worker:
        worker.wait_says("working")
        refused = evp("groups", "delete", GROUP, "--yes", environ=shared, cwd=tmp_path)
        assert refused.code == 2
        assert "stop it first" in refused.one_line
        assert GROUP in groups_in_log(shared)
        assert worker.stop().code == 0
    forced = evp("groups", "delete", GROUP, "--yes", "--force", environ=shared, cwd=tmp_path)
    assert forced.code == 0
    assert GROUP not in rows(shared, tmp_path)


@pytest.mark.slow
def test_a_second_consumer(shared: dict[str, str], log: Any, tmp_path: Path) -> None:
    """A second group is made, works, is set back, dry and then done, and is described."""
    shadow = shared | {"EVP_CONSUMER_GROUP": "shadow"}

    def groups(*arguments: str) -> str:
        done = evp("groups", *arguments, environ=shadow, cwd=tmp_path)
        assert (done.code, done.err) == (0, "")
        return done.out

    assert groups("create", "shadow") == "group shadow is made; 30 events of the log wait for it\n"
    assert evp("work", "--burst", environ=shadow, cwd=tmp_path).code == 0
    dry = groups("reset", "shadow", "--by-duration", "90m")
    assert "again     30 events are delivered once more" in dry
    assert json.loads(groups("reset", "shadow", "--to-earliest", "--execute", "--json"))["executed"]
    found = json.loads(groups("describe", "shadow", "--json"))
    assert (found["writes"], found["lag_events"], found["last_delivered"]) == (True, 30, None)
    refused = evp(
        *("groups", "reset", "shadow", "--to-latest", "--to-earliest"),
        environ=shadow,
        cwd=tmp_path,
    )
    assert refused.code == 2
    assert "say where to: one of" in refused.one_line


def test_no_engine(shared: dict[str, str], tmp_path: Path) -> None:
    """Without a log it ends in 3 and one line."""
    environ = shared | {"EVP_REDIS_URL": "redis://127.0.0.1:1"}
    done = evp("groups", "list", environ=environ, cwd=tmp_path)
    assert done.code == 3
    assert "can't reach the log" in done.one_line
