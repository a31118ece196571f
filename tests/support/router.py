"""A stand-in for a mongos: a router of MongoDB, as far as `evp init` talks to one.

It stands in front of a real store, says that it is a router, keeps the commands that
only a router has, and does what these leave behind: a row in `config.collections`, and
hashed indexes, which not every store has. Everything else is the store's own answer.
There is one shard, so to say: what a cluster does with chunks can't be seen here.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import bson
from pymongo import AsyncMongoClient

_HEADER = struct.Struct("<iiii")
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_OF_MEMBERS = ("setName", "setVersion", "hosts", "primary", "me", "electionId", "lastWrite")
#: Without these a client neither waits for news of the topology nor makes sessions, which a
#: store that is no replica set may not take.
_OF_SESSIONS = ("topologyVersion", "logicalSessionTimeoutMinutes")
_UNAUTHORIZED, _ILLEGAL, _COMMAND_NOT_FOUND, _INVALID_OPTIONS = 13, 20, 59, 72


class Router:
    """`url` leads to it; `asked` is what it was asked that only a router is, in order.

    Commands in `refused` it refuses, as to a user without the right, and all that ask a
    database that is `hidden`; those in `unknown` it has never heard of.
    """

    def __init__(self, store: AsyncMongoClient[dict[str, Any]], url: str) -> None:
        self.url = url
        self.asked: list[dict[str, Any]] = []
        self.refused: set[str] = set()
        self.unknown: set[str] = set()
        self.hidden = ""
        self._hashed: set[str] = set()
        self._store = store

    async def answer(self, command: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a command of a router's own, None to any other one."""
        name = next(iter(command))
        if name in self.refused or command.get("$db") == self.hidden:
            return _error(_UNAUTHORIZED, f"not authorized on admin to execute command {name}")
        if name in self.unknown:
            return _error(_COMMAND_NOT_FOUND, f"no such command: '{name}'")
        if name == "enableSharding":
            self.asked.append({name: command[name]})
            return {"ok": 1.0}
        if name == "shardCollection":
            self.asked.append({name: command[name], "key": dict(command["key"])})
            return await self._shard(command[name], dict(command["key"]))
        if name == "createIndexes" and "hashed" in command["indexes"][0]["key"].values():
            self._hashed.add(f"{command['$db']}.{command[name]}")
            return {"ok": 1.0}
        return None

    def rewritten(self, command: dict[str, Any], reply: bytes) -> bytes:
        """Return the store's reply as a router in front of it would give it."""
        name = next(iter(command))
        if name.lower() in {"hello", "ismaster"}:
            return _with(reply, _as_router)
        if name == "listIndexes" and f"{command['$db']}.{command[name]}" in self._hashed:
            return _with(reply, _with_hashed)
        return reply

    async def _shard(self, namespace: str, key: dict[str, Any]) -> dict[str, Any]:
        rows = self._store["config"]["collections"]
        found = await rows.find_one({"_id": namespace})
        if found is not None and found["key"] != key:
            return _error(_ILLEGAL, "sharding already enabled with another key")
        database, _, name = namespace.partition(".")
        collection = self._store[database][name]
        if namespace not in self._hashed and await collection.find_one({}) is not None:
            return _error(_INVALID_OPTIONS, "Please create an index that starts with the shard key")
        await rows.update_one({"_id": namespace}, {"$set": {"key": key}}, upsert=True)
        return {"collectionsharded": namespace, "ok": 1.0}


def _error(code: int, text: str) -> dict[str, Any]:
    return {"ok": 0.0, "code": code, "errmsg": text}


def _as_router(said: dict[str, Any]) -> dict[str, Any]:
    """Return what a store says of itself as a router would."""
    kept = {key: value for key, value in said.items() if key not in {*_OF_MEMBERS, *_OF_SESSIONS}}
    is_writable = {"ismaster": True} if "ismaster" in said else {"isWritablePrimary": True}
    return kept | is_writable | {"msg": "isdbgrid"}


def _with_hashed(said: dict[str, Any]) -> dict[str, Any]:
    """Return a list of indexes with the hashed one."""
    cursor = said.get("cursor")
    if cursor is None:  # No such collection.
        return said
    index = {"v": 2, "key": {"_id": "hashed"}, "name": "_id_hashed"}
    return said | {"cursor": cursor | {"firstBatch": [*cursor["firstBatch"], index]}}


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(_HEADER.size)
    return head + await reader.readexactly(_HEADER.unpack(head)[0] - _HEADER.size)


def _command_of(message: bytes) -> dict[str, Any]:
    """Return a command; the documents of an insert, which come apart, are not needed."""
    opcode = _HEADER.unpack_from(message)[3]
    if opcode == _OP_QUERY:
        return dict(bson.decode(message[message.index(b"\0", 20) + 9 :]))
    if opcode != _OP_MSG or message[20] != 0:
        return {"unknown": 1}
    size = int.from_bytes(message[21:25], "little")
    return dict(bson.decode(message[21 : 21 + size]))


def _reply(request: bytes, answer: dict[str, Any]) -> bytes:
    body = b"\0\0\0\0\0" + bson.encode(answer)
    request_id = _HEADER.unpack_from(request)[1]
    return _HEADER.pack(_HEADER.size + len(body), 0, request_id, _OP_MSG) + body


def _with(reply: bytes, change: Callable[[dict[str, Any]], dict[str, Any]]) -> bytes:
    """Return a reply with another document; those to a client's first hello have an old form."""
    start = 36 if _HEADER.unpack_from(reply)[3] == _OP_REPLY else 21
    said = bson.encode(change(bson.decode(reply[start:])))
    _, number, answers, opcode = _HEADER.unpack_from(reply)
    head = _HEADER.pack(start + len(said), number, answers, opcode)
    return head + reply[_HEADER.size : start] + said


async def _serve(
    router: Router, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    answers, requests = await asyncio.open_connection(host, port)
    with contextlib.suppress(asyncio.IncompleteReadError, OSError, RuntimeError):
        while True:
            request = await _message(reader)
            command = _command_of(request)
            own = await router.answer(command)
            if own is not None:
                writer.write(_reply(request, own))
                continue
            requests.write(request)
            reply = await _message(answers)
            writer.write(router.rewritten(command, reply))
    requests.transport.abort()
    writer.transport.abort()


@contextlib.asynccontextmanager
async def routing(url: str) -> AsyncIterator[Router]:
    """Run a router in front of the store at `url`."""
    address = urlsplit(url)
    host, port = str(address.hostname), int(address.port or 0)
    tasks: set[asyncio.Task[None]] = set()
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_serve(router, host, port, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    router = Router(client, f"mongodb://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    try:
        yield router
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
