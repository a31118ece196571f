"""A whole evp on this machine: log, store, server, workers, under one supervisor."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from evp import running, supervise
from evp.clock import monotonic_s
from evp.engines.engine import Engine, log_engine, store_engine
from evp.engines.locate import find_log, find_store
from evp.errors import EngineFailed, ServerUnavailable, StoreUnavailable, redact_url
from evp.http import HttpConnection, http_url
from evp.metrics.board import Board
from evp.settings import Settings
from evp.signals import Signals
from evp.storage.client import opened, ping
from evp.stream.client import Link
from evp.stream.keys import Keys

LOGS_FOLDER = "logs"
_STOP_S = 7.5
_LOCK_S_MAX = 3.0
_LOOK_S = 0.05


class Plan(Struct, frozen=True):
    """What to run. An engine that is None is somebody else's: the settings say where."""

    log: Engine | None
    store: Engine | None
    serve_processes: int
    work_processes: int


def plan_engines(settings: Settings, origins: Mapping[str, str], serve: int, work: int) -> Plan:
    """Return what to run: engines of our own unless an address was given. Raises EngineFailed."""
    own = {"default", "running evp up"}
    log = store = None
    if origins["redis_url"] in own:
        log = _same_as_before(log_engine(find_log(), settings.data_dir / "log"))
    if origins["mongo_url"] in own:
        store = _same_as_before(store_engine(find_store(), settings.data_dir / "store"))
    return Plan(log, store, serve, work)


def _same_as_before(engine: Engine) -> Engine:
    """Keep one program to one folder: none reads another's files. Raises EngineFailed."""
    mark, kind = engine.folder.with_suffix(".engine"), engine.binary.kind
    former = running.read_text(mark).strip()
    if former and former != kind:
        raise EngineFailed(
            f"{engine.folder} holds the data of {former}, but {kind} was found now; "
            f"put {former} first on PATH, or give another --data-dir"
        )
    mark.write_text(f"{kind}\n", encoding="utf-8")
    return engine


def lock(data_dir: Path) -> IO[str]:
    """Take a data directory; it is taken as long as anyone has this file open.

    Engines inherit it: one that outlives an `evp up` that was killed may still
    write, so it is waited for. Raises EngineFailed, and UsageError if the
    directory can't be used at all.
    """
    with running.keeping_data_in(data_dir):
        file = (data_dir / "lock").open("a")
    ends_at_s = monotonic_s() + _LOCK_S_MAX
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            runs = running.read(data_dir) is not None
            if runs or monotonic_s() > ends_at_s:
                file.close()
                who = "another `evp up`" if runs else "an engine of an `evp up` that was killed"
                raise EngineFailed(
                    f"{who} uses {data_dir}; stop it, or give another --data-dir"
                ) from None
            time.sleep(_LOOK_S)
        else:
            return file


class Stack:
    """Everything of one `evp up`."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        listener: socket.socket,
        lock_fd: int,
        environ: Callable[[Settings], dict[str, str]],
    ) -> None:
        addresses = {
            "redis_url": plan.log.url if plan.log else settings.redis_url,
            "mongo_url": plan.store.url if plan.store else settings.mongo_url,
            "port": listener.getsockname()[1],
        }
        self.settings = msgspec.structs.replace(settings, **addresses)
        self.supervisor = supervise.Supervisor(self._tell)
        self._plan = plan
        self._listener = listener
        self._lock_fd = lock_fd
        self._environ = environ(self.settings)
        self._board = Board()
        self._up = False

    @property
    def http_url(self) -> str:
        """Where the server is reached from this machine."""
        return http_url(self.settings.host, self.settings.port)

    async def start(self) -> None:
        """Start all and wait until events are accepted. Raises EngineFailed and LogUnavailable."""
        await self._reach_others()
        logs = self.settings.data_dir / LOGS_FOLDER
        engines = {"log": self._plan.log, "store": self._plan.store}
        await self.supervisor.start(
            *(
                engine.child(name, logs / f"{name}.log", self._environ, (self._lock_fd,))
                for name, engine in engines.items()
                if engine is not None
            )
        )
        await self.supervisor.start(*self._evp_children())
        self._up = True
        self._tell()

    async def stop(self, signals: Signals) -> None:
        """Stop all, servers and workers first; a further signal kills what is left."""
        self._tell(stopping=True)
        self._up = False
        await supervise.stop_or_kill(self.supervisor, signals, _STOP_S)
        (self.settings.data_dir / running.FILE_NAME).unlink(missing_ok=True)

    async def _reach_others(self) -> None:
        """Ask the engines that are somebody else's whether they are there at all."""
        settings = self.settings
        if self._plan.log is None:
            keys = Keys(settings.stream)
            await (await Link.open(settings.redis_url, keys)).close()
        if self._plan.store is None:
            try:
                async with opened(settings, connections_max=1) as db:
                    await ping(db)
            except StoreUnavailable as error:
                shown = redact_url(settings.mongo_url)
                raise EngineFailed(f"can't reach the store at {shown}") from error

    def _evp_children(self) -> list[supervise.Child]:
        fd, board = self._listener.fileno(), self._board
        python = [sys.executable, "-m", "evp"]
        servers = [
            supervise.Child(
                name=name,
                command=[*python, "serve", "--socket-fd", str(fd), "--board", board.place(name)],
                environ=self._environ,
                pass_fds=(fd, board.fd),
                ready=self._is_ready,
            )
            for name in _names("serve", self._plan.serve_processes)
        ]
        workers = [
            supervise.Child(
                name=name,
                command=[*python, "work", "--board", board.place(name)],
                environ=self._environ,
                pass_fds=(board.fd,),
            )
            for name in _names("work", self._plan.work_processes)
        ]
        return servers + workers

    async def _is_ready(self) -> bool:
        try:
            async with HttpConnection(self.http_url) as connection:
                reply = await connection.request("GET", "/api/ready")
        except ServerUnavailable:
            return False
        if reply.code == "log_not_durable":
            # To wait would change nothing: a setting is wrong.
            raise EngineFailed(reply.detail)
        return reply.status == 200

    def _tell(self, *, stopping: bool = False) -> None:
        """Write `up.json`, and again whenever a child has another pid."""
        if not self._up:
            return
        settings = self.settings
        running.write(
            settings.data_dir,
            running.Running(
                http_url=self.http_url,
                redis_url=settings.redis_url,
                mongo_url=settings.mongo_url,
                mongo_db=settings.mongo_db,
                api_key=next(iter(settings.api_keys.values())),
                pid=os.getpid(),
                boot=running.boot_id(),
                children=self.supervisor.pids,
                claim_idle_ms=settings.claim_idle_ms,
                stopping=stopping,
            ),
        )


def _names(what: str, count: int) -> list[str]:
    return [f"{what}-{number}" for number in range(1, count + 1)]
