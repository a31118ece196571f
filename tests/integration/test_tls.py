"""Log and store behind TLS: who is trusted, who is not, and what is told then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from evp.engines.engine import LOOPBACK, free_port
from evp.errors import LogUnavailable, StoreUnavailable
from evp.settings import Settings
from evp.storage.client import Database, opened, ping
from evp.stream.client import Link
from evp.stream.keys import Keys
from tests.support.cluster import SLOTS, ask
from tests.support.make import event, ndjson
from tests.support.sentinel import SERVICE, Sentinel
from tests.support.server import NDJSON, request, serving
from tests.support.servers import Server, program_log
from tests.support.steady import stored
from tests.support.stores import MAY_LEAVE_SOCKETS
from tests.support.tls import Certificates, make_certificates, tls_to
from tests.support.verifying import clean
from tests.support.wait import until
from tests.support.workers import changed, drain

pytestmark = [pytest.mark.cluster, MAY_LEAVE_SOCKETS, pytest.mark.usefixtures("verify_at_once")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of the module."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def rediss(port: int, made: Certificates, kind: str = "", path: str = "0", **more: Any) -> str:
    """Return an address with TLS that trusts the CA."""
    options = "".join(f"&{name}={value}" for name, value in more.items())
    return f"rediss{kind}://{LOOPBACK}:{port}/{path}?ssl_ca_certs={made.ca}{options}"


async def test_log_and_store(
    made: Certificates, log: Server, store_url: str, settings: Settings, db: Database
) -> None:
    """Server, worker and verify do over TLS what they do without."""
    store_port = urlsplit(store_url).port
    assert store_port is not None
    async with tls_to(log.port, made) as log_front, tls_to(store_port, made) as store_front:
        mongo = f"mongodb://{LOOPBACK}:{store_front}/?directConnection=true&tls=true"
        on_tls = changed(
            settings,
            redis_url=rediss(log_front, made),
            mongo_url=f"{mongo}&tlsCAFile={made.ca}",
        )
        async with serving(on_tls) as server:
            await until(server.is_ready, what="the server accepts")
            sent = request(ndjson(event(0)), path="/events/batch", headers=NDJSON)
            assert (await server.ask(sent)).status == 202
        await drain(on_tls)
        await clean(on_tls)
        assert await stored(db) == {"e0": 1}
        strange = changed(on_tls, mongo_url=f"{mongo}&tlsCAFile={made.other_ca}")
        with pytest.raises(StoreUnavailable, match="certificate"):
            async with opened(strange, connections_max=1) as other:
                await ping(other)


async def test_whom_evp_trusts(made: Certificates, log: Server) -> None:
    """A server by another CA, or by none that the system knows, is refused, and why is told."""
    async with tls_to(log.port, made) as front:
        for url in (
            f"rediss://{LOOPBACK}:{front}/0?ssl_ca_certs={made.other_ca}",
            f"rediss://{LOOPBACK}:{front}/0",
        ):
            with pytest.raises(LogUnavailable, match="certificate verify failed"):
                await Link.open(url)


async def test_server_that_asks_for_a_certificate(made: Certificates, log: Server) -> None:
    """A client's certificate is shown where the address names one; without it nothing is said."""
    async with tls_to(log.port, made, asks_client=True) as front:
        mine: dict[str, Any] = {"ssl_certfile": made.client, "ssl_keyfile": made.client_key}
        async with Link.opened(rediss(front, made, **mine)) as link:
            assert await link.call("PING") == b"PONG"
        with pytest.raises(LogUnavailable):
            async with Link.opened(rediss(front, made)) as link:
                await link.call("PING")


@pytest.fixture
def clustered(tmp_path: Path) -> Iterator[tuple[Server, int]]:
    """A cluster of one node, which tells a port with TLS as its own; and that port."""
    front, bus = free_port(), free_port()
    announced = ("--cluster-announce-port", str(front), "--cluster-announce-ip", LOOPBACK)
    node = program_log(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(bus), *announced)
    node.start()
    yield node, front
    node.kill()


async def test_cluster(made: Certificates, clustered: tuple[Server, int], keys: Keys) -> None:
    """The node that is asked and the node that is named are both dialled with TLS."""
    node, front = clustered
    await ask(node, "CLUSTER", "ADDSLOTSRANGE", 0, SLOTS - 1)
    async with (
        tls_to(node.port, made, front=front),
        Link.opened(rediss(front, made, "+cluster"), keys) as link,
    ):

        async def serves() -> bool:
            return b"cluster_state:ok" in await link.call("CLUSTER", "INFO")

        await until(serves, what="the cluster serves")
        assert await link.call("XLEN", keys.stream) == 0


async def test_sentinel(made: Certificates, log: Server, tmp_path: Path) -> None:
    """Sentinel and primary are dialled with TLS, by the same CA."""
    async with tls_to(log.port, made) as front:
        watched = await asyncio.to_thread(Sentinel, tmp_path / "sentinel", front, 1)
        await asyncio.to_thread(watched.start)
        try:
            async with tls_to(watched.port, made) as sentinel_front:
                url = rediss(sentinel_front, made, "+sentinel", f"{SERVICE}/0")
                async with Link.opened(url) as link:
                    assert (await link.call("ROLE"))[0] == b"master"
        finally:
            watched.kill()
