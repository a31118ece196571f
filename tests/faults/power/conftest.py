"""Fixtures of the tests on disks whose power can be cut."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evp.engines.engine import Engine, log_engine, store_engine
from evp.engines.locate import Binary, find_log, find_store
from tests.faults.power.disk import CantCompile, Disk
from tests.support.servers import ProcessServer

OnDisk = tuple[ProcessServer, Disk]
"""An engine and its disk."""
MakeOnDisk = Callable[..., OnDisk]


@pytest.fixture
def log_on_disk(tmp_path: Path) -> Iterator[MakeOnDisk]:
    """Starts a log on a disk of its own; takes further arguments of the server."""
    with _made(tmp_path / "log", find_log, log_engine) as make:
        yield make


@pytest.fixture
def store_on_disk(tmp_path: Path) -> Iterator[MakeOnDisk]:
    """Starts a store on a disk of its own."""
    with _made(tmp_path / "store", find_store, store_engine) as make:
        yield make


@contextlib.contextmanager
def _made(
    folder: Path, find: Callable[[], Binary], engine: Callable[[Binary, Path], Engine]
) -> Iterator[MakeOnDisk]:
    servers: list[ProcessServer] = []

    def make(*arguments: str, without: str | None = None) -> OnDisk:
        disk = Disk(folder)
        try:
            binary = disk.under(find())
        except CantCompile as error:
            pytest.skip(str(error))
        server = ProcessServer(engine(binary, folder), *arguments, without=without)
        servers.append(server)
        server.start()
        return server, disk

    yield make
    for server in servers:
        server.kill()
