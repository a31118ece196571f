"""The client of the store: pool, time-outs and guarantees, set in code.

Whatever the address says, writes are acknowledged by a majority and on its
journals, and reads come from the primary: otherwise what was acknowledged in
the log could be rolled back in the store.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pymongo
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError
from pymongo.read_concern import ReadConcern

from evp.errors import SettingsError, SettingsProblem, redact_url
from evp.limits import STORE_PASS_MS_MAX, STORE_QUEUE_MS_MAX, STORE_SELECT_MS_MAX
from evp.settings import Settings
from evp.storage.failures import told

#: Saying goodbye to the store may take this long.
CLOSE_S_MAX = 0.5

Document = dict[str, Any]
Database = AsyncDatabase[Document]
Client = AsyncMongoClient[Document]


def connect(
    settings: Settings, *, connections_max: int | None = None, retry_reads: bool = True
) -> Client:
    """Return a client; it dials on first use. The caller closes it (`close`).

    `connections_max` bounds the pool further, for programs that only look. Without
    `retry_reads` a read fails with its connection, and is not tried again until time is up.
    Raises SettingsError if the address makes no sense, or names a file that can't be read.
    """
    most = connections_max or settings.mongo_max_pool_size
    try:
        return AsyncMongoClient(
            settings.mongo_url,
            appname="evp",
            maxPoolSize=most,
            minPoolSize=min(settings.mongo_min_pool_size, most) if connections_max is None else 0,
            maxIdleTimeMS=settings.mongo_max_idle_ms,
            connectTimeoutMS=settings.mongo_connect_timeout_ms,
            socketTimeoutMS=settings.mongo_socket_timeout_ms,
            serverSelectionTimeoutMS=STORE_SELECT_MS_MAX,
            waitQueueTimeoutMS=STORE_QUEUE_MS_MAX,
            retryReads=retry_reads,
        )
    except (ConfigurationError, ValueError, OSError) as error:
        wanted = f"a MongoDB address ({redact_url(str(error))})"
        problem = SettingsProblem("EVP_MONGO_URL", redact_url(settings.mongo_url), wanted)
        raise SettingsError([problem]) from error


def connect_patiently(settings: Settings, *, connections_max: int) -> Client:
    """Return a client that waits for the answer to a pass over all events; as `connect`."""
    socket_ms = max(settings.mongo_socket_timeout_ms, STORE_PASS_MS_MAX)
    patient = msgspec.structs.replace(settings, mongo_socket_timeout_ms=socket_ms)
    return connect(patient, connections_max=connections_max)


def database(client: Client, name: str) -> Database:
    """Return a database with evp's guarantees."""
    return client.get_database(
        name,
        codec_options=client.codec_options.with_options(tz_aware=True),
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("majority"),
        write_concern=WriteConcern("majority", j=True),
    )


@contextlib.asynccontextmanager
async def opened(settings: Settings, *, connections_max: int) -> AsyncIterator[Database]:
    """Give the database that is set, over a client of its own, for a while; raises as `connect`."""
    client = connect(settings, connections_max=connections_max)
    try:
        yield database(client, settings.mongo_db)
    finally:
        await close(client)


async def ping(db: Database) -> None:
    """Ask the store whether it is there. Raises StoreUnavailable."""
    with told():
        await db.command("ping")


async def reach(db: Database, within_s: float) -> None:
    """Look for a server, if none is known. Raises StoreUnavailable when the time is over.

    A call with a time limit looks for one until its own time is over.
    """
    if not db.client.topology_description.has_writable_server():
        with told(), pymongo.timeout(within_s):
            await db.command("ping")


async def close(client: Client) -> None:
    """Close a client within CLOSE_S_MAX, also when the store hangs and can't end its sessions."""
    with pymongo.timeout(CLOSE_S_MAX):
        await client.close()
