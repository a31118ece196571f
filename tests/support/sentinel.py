"""A primary and its replica that three Sentinels watch, as processes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from evp.engines.engine import LOOPBACK, log_engine
from evp.engines.locate import find_log
from evp.errors import LogUnavailable
from tests.support.cluster import ask, has_copied, info
from tests.support.servers import ProcessServer, Server, program_log
from tests.support.wait import until

SERVICE = "events"
DOWN_AFTER_MS = 1_000
SETTLED_S_MAX = 60.0
_SENTINELS = 3
_QUORUM = 2


class Sentinel(ProcessServer):
    """One Sentinel. The primary is at port `watched`, it is told; all else it finds by itself."""

    def __init__(self, folder: Path, watched: int, quorum: int = _QUORUM) -> None:
        engine = log_engine(find_log(), folder)
        super().__init__(engine)
        path = folder / "sentinel.conf"
        lines = [
            f"bind {LOOPBACK}",
            f"port {engine.port}",
            f"dir {folder.resolve()}",
            f"sentinel monitor {SERVICE} {LOOPBACK} {watched} {quorum}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 10000",
        ]
        path.write_text("\n".join(lines) + "\n")
        self._command = [*engine.binary.command, str(path), "--sentinel"]


class Watched:
    """A primary, its replica and their Sentinels. Who is which is asked, and changes."""

    def __init__(self, folder: Path) -> None:
        homes = [folder / name for name in ("one", "other")]
        for home in homes:
            home.mkdir(parents=True)
        self.servers = [program_log(home, "--repl-diskless-sync-delay", "0") for home in homes]
        self._folder = folder
        self.sentinels = [self.sentinel(f"sentinel-{n + 1}") for n in range(_SENTINELS)]

    def sentinel(self, name: str, watched: Server | None = None) -> Sentinel:
        """Return one more Sentinel, not started; `watched` is the first server unless given."""
        return Sentinel(self._folder / name, (watched or self.servers[0]).port)

    @property
    def url(self) -> str:
        """Address that names all Sentinels."""
        return self.url_of(self.sentinels)

    @staticmethod
    def url_of(sentinels: Sequence[Server]) -> str:
        """Return the address that names these Sentinels alone."""
        named = ",".join(f"{LOOPBACK}:{one.port}" for one in sentinels)
        return f"redis+sentinel://{named}/{SERVICE}/0"

    async def start(self) -> None:
        """Start all; in the end the Sentinels know each other and the replica."""
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in self.servers))
        primary, replica = self.servers
        await ask(replica, "REPLICAOF", LOOPBACK, primary.port)
        what = "the replica has all"
        await until(lambda: has_copied(replica, primary), what=what, within_s=SETTLED_S_MAX)
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in self.sentinels))
        await until(self._all_known, what="the Sentinels know", within_s=SETTLED_S_MAX)

    def end(self) -> None:
        """Kill all."""
        for one in (*self.sentinels, *self.servers):
            one.kill()

    async def primary(self) -> Server:
        """Return the server that says that it is the primary. Raises LookupError if none does."""
        for server in self.servers:
            with contextlib.suppress(LogUnavailable):
                if server.running and (await info(server, "replication"))["role"] == "master":
                    return server
        raise LookupError("no server says that it is the primary")

    async def fail_over(self) -> Server:
        """Kill the primary once its replica has all; return the successor that was elected."""
        primary = await self.primary()
        [replica] = [one for one in self.servers if one is not primary]
        what = "the replica has all"
        await until(lambda: has_copied(replica, primary), what=what, within_s=SETTLED_S_MAX)
        await asyncio.to_thread(primary.kill)
        await self.until_primary(replica)
        return replica

    async def until_primary(self, server: Server) -> None:
        """Wait until a server says that it is the primary."""

        async def is_primary() -> bool:
            try:
                return (await info(server, "replication"))["role"] == "master"
            except LogUnavailable:
                # A Sentinel cuts all connections of a server that it promotes.
                return False

        await until(is_primary, what="the replica takes over", within_s=SETTLED_S_MAX)

    async def revive(self, server: Server) -> None:
        """Start a server that was killed; wait until it follows the other one and has all."""
        await asyncio.to_thread(server.start)
        await self.until_replica(server)

    async def until_replica(self, server: Server) -> None:
        """Wait until a server follows the other one and has all."""
        [primary] = [one for one in self.servers if one is not server]
        what = "it has become a replica"
        await until(lambda: has_copied(server, primary), what=what, within_s=SETTLED_S_MAX)

    async def _all_known(self) -> bool:
        for sentinel in self.sentinels:
            flat = await ask(sentinel, "SENTINEL", "MASTER", SERVICE)
            told = dict(zip(flat[::2], flat[1::2], strict=True))
            others = int(told[b"num-other-sentinels"])
            if others != _SENTINELS - 1 or int(told[b"num-slaves"]) != 1:
                return False
        return True


@contextlib.asynccontextmanager
async def running_watched(folder: Path) -> AsyncIterator[Watched]:
    """Run a primary, its replica and three Sentinels; nothing is left of them at the end."""
    watched = Watched(folder)
    try:
        await watched.start()
        yield watched
    finally:
        await asyncio.to_thread(watched.end)
