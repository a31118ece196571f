"""/metrics of several processes: whichever answers tells of all."""

from __future__ import annotations

import asyncio
import signal
import urllib.request
from pathlib import Path

import psutil
import pytest

from evp.engines.engine import free_port
from evp.settings import Settings
from tests.e2e.commands import background, evp
from tests.e2e.test_serve import address, ask, wait_ready
from tests.support.metrics import samples
from tests.support.streams import append_events
from tests.support.up import Up
from tests.support.wait import until_now


def told(url: str) -> dict[tuple[str, ...], float]:
    """Return what a port tells; nothing while nobody listens."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
            return samples(answer.read())
    except OSError:
        return {}


def total(url: str, name: str, *labels: str) -> float:
    """Return the sum over all processes of what has these labels."""
    found = told(url)
    return sum(value for key, value in found.items() if key[0] == name and {*labels} <= {*key})


@pytest.mark.slow
def test_two_servers(shared: dict[str, str], tmp_path: Path) -> None:
    """What either accepted is told by both; one that starts again begins at 0 by itself."""
    environ = shared | {"EVP_PORT": str(free_port())}
    with background("serve", "--processes", "2", environ=environ, cwd=tmp_path) as serving:
        url = address(serving)
        wait_ready(url)
        for _ in range(20):
            assert ask(url, "POST", "/events", '{"type": "t"}')[0] == 202
        for _ in range(5):
            until_now(
                lambda: total(url, "evp_ingest_events_total", "accepted") == 20,
                what="all that was accepted is told",
            )
        until_now(lambda: total(url, "evp_build_info") == 2, what="both processes are told of")
        starts: dict[tuple[str, ...], float] = {}

        def both_are_told() -> bool:
            # Either answers, and a new one knows of the other up to two seconds later.
            nonlocal starts
            starts = {
                key: value
                for key, value in told(url).items()
                if key[0] == "process_start_time_seconds"
            }
            return {key[1] for key in starts} == {"serve-1", "serve-2"}

        until_now(both_are_told, what="each of both is told with its start")
        victim = psutil.Process(serving.process.pid).children()[0]
        victim.send_signal(signal.SIGKILL)

        def is_back() -> bool:
            found = told(url)
            return sum(found.get(key, 0) > value for key, value in starts.items()) == 1

        until_now(is_back, what="the one that was killed is told as a new one")
        assert serving.stop().code == 0


def test_two_workers(shared: dict[str, str], settings: Settings, tmp_path: Path) -> None:
    """What either stored is told on the port that both share."""
    asyncio.run(append_events(settings, 200, each=5))
    port = free_port()
    environ = shared | {"EVP_METRICS_PORT": str(port)}
    url = f"http://127.0.0.1:{port}"
    with background("work", "--processes", "2", environ=environ, cwd=tmp_path) as working:
        until_now(
            lambda: total(url, "evp_events_stored_total") == 200, what="all that was stored is told"
        )
        until_now(lambda: total(url, "evp_build_info") == 2, what="both processes are told of")
        assert working.stop().code == 0
    assert told(url) == {}


def test_port_that_is_taken(shared: dict[str, str], tmp_path: Path) -> None:
    """A worker whose port for metrics is taken says so, and exits with 3."""
    environ = shared | {"EVP_METRICS_PORT": str(free_port())}
    with background("work", environ=environ, cwd=tmp_path) as working:
        working.wait_says("working")
        done = evp("work", environ=environ, cwd=tmp_path)
        assert (done.code, environ["EVP_METRICS_PORT"] in done.one_line) == (3, True)


def test_up_tells_of_its_workers(up: Up) -> None:
    """On the port of `evp up` servers and workers are told of together."""
    url = up.http_url

    def processes() -> set[str]:
        return {key[-1] for key in told(url) if key[0] == "evp_build_info"} | {
            key[1] for key in told(url) if key[0] == "evp_events_stored_total"
        }

    until_now(lambda: any(one.startswith("work-") for one in processes()), what="a worker is told")
    assert {key[1] for key in told(url) if key[0] == "evp_log_durable"} == {"serve-1"}
