"""Looking into the store, listening to what is sent to it, and making it fail."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from evp.storage import schema
from evp.storage.client import Database, database
from tests.support.servers import Server, own_store

#: What a store that must answer gets; far more than it needs.
WRITE_MS = 10_000

#: A client that is closed while it dials leaves its socket to the garbage collector (pymongo).
MAY_LEAVE_SOCKETS = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


class Listener(CommandListener):
    """Keeps every command sent to the store, as ("insert events", the command).

    `at_start` and `at_end` are called with the same name while the command is
    about to be sent, and once it was answered.
    """

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.at_start: Callable[[str], None] = lambda _name: None
        self.at_end: Callable[[str], None] = lambda _name: None
        self._names: dict[int, str] = {}

    @property
    def names(self) -> list[str]:
        """What was sent, in order."""
        return [name for name, _ in self.commands]

    def started(self, event: CommandStartedEvent) -> None:
        """Take note of a command."""
        name = f"{event.command_name} {event.command[event.command_name]}"
        self._names[event.request_id] = name
        self.commands.append((name, dict(event.command)))
        self.at_start(name)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Pass on that it was answered."""
        self.at_end(self._names.pop(event.request_id))

    def failed(self, event: CommandFailedEvent) -> None:
        """Forget it."""
        self._names.pop(event.request_id, None)


def in_rounds(rounds: int, do: Callable[[], object]) -> None:
    """Call something after so many rounds of the loop."""
    if rounds:
        asyncio.get_running_loop().call_soon(in_rounds, rounds - 1, do)
    else:
        do()


@contextlib.asynccontextmanager
async def store(url: str, name: str, *listeners: Listener) -> AsyncIterator[Database]:
    """Give a database with evp's guarantees and collections; the client is closed at the end."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        url,
        event_listeners=listeners,
        # A made-up failure brings no news, so the client must look again by itself.
        serverMonitoringMode="poll",
        heartbeatFrequencyMS=500,
    )
    try:
        db = database(client, name)
        await schema.ensure(db)
        yield db
    finally:
        await client.close()


@contextlib.contextmanager
def failing_store(folder: Path) -> Iterator[Server]:
    """Run a store of a test module's own that obeys `fail`; it may be paused."""
    server = own_store(folder, fails=True)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def hanging(server: Server) -> contextlib.AbstractContextManager[None]:
    """Pause a server for a while: it takes connections, and answers nothing."""
    return server.paused()


@contextlib.asynccontextmanager
async def fail(
    db: Database, command: str, mode: str | dict[str, int] = "alwaysOn", **how: Any
) -> AsyncIterator[None]:
    """Let a command fail, by default each time, as failCommand understands `mode` and `how`."""
    admin = db.client.admin
    data = {"failCommands": [command], **how}
    await admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})
    try:
        yield
    finally:
        await admin.command({"configureFailPoint": "failCommand", "mode": "off"})


async def documents(db: Database, collection: str) -> list[dict[str, Any]]:
    """Return everything that a collection holds, by `_id`."""
    return sorted(await db[collection].find().to_list(), key=lambda one: str(one["_id"]))


async def the_one(db: Database, collection: str) -> dict[str, Any]:
    """Return the only document of a collection."""
    [document] = await documents(db, collection)
    return document


def collections_of_the_table() -> list[str]:
    """Return the collections that the schema's table names."""
    return re.findall(r"^\| `(\w+)` \|", schema.__doc__ or "", re.MULTILINE)


def use_listener(monkeypatch: pytest.MonkeyPatch, module: Any, listener: Listener) -> None:
    """Let the clients that a module makes from now on tell a listener what they send."""
    original = module.AsyncMongoClient

    def listened(*args: Any, **options: Any) -> Any:
        return original(*args, event_listeners=[listener], **options)

    monkeypatch.setattr(module, "AsyncMongoClient", listened)
