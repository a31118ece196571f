"""From the release before to this one while events come in: nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evp.engines.engine import free_port
from tests.e2e.commands import Background, background, evp
from tests.e2e.log import groups_in_log
from tests.support.balancer import is_ready
from tests.support.previous import ROOT, previous_release
from tests.support.wait import until_now

GROUP = "evp-workers-group"
START_S_MAX = 60.0
LOAD_S_MAX = 240.0
SHARED_EVENTS = 500

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes a process one of the release before."""
    return previous_release(tmp_path_factory.mktemp("previous"))


class Site:
    """Servers and workers of both releases on the same engines, and loads on them."""

    def __init__(
        self, environ: dict[str, str], older: Path, folder: Path, ends: contextlib.ExitStack
    ) -> None:
        patience = {"EVP_WRITE_TIMEOUT_MS": "3000", "EVP_CLAIM_IDLE_MS": "10000"}
        self.environ = environ | patience | {"PYTHONPATH": str(ROOT)}
        self._older = older
        self._folder = folder
        self._ends = ends
        self._started = 0

    def run(self, *arguments: str, is_old: bool = False) -> Background:
        """Start a process of either release."""
        self._started += 1
        environ = self.environ | ({"PYTHONPATH": str(self._older)} if is_old else {})
        name = f"{arguments[0]}-{self._started}"
        started = background(*arguments, environ=environ, cwd=self._folder, name=name)
        return self._ends.enter_context(started)

    def serve(self, *, is_old: bool = False) -> tuple[Background, str]:
        """Start a server; return it and its address once it accepts."""
        port = free_port()
        server = self.run("serve", "--port", str(port), is_old=is_old)
        url = f"http://127.0.0.1:{port}"

        def accepts() -> bool:
            assert server.runs, server.text
            return asyncio.run(is_ready(url))

        until_now(accepts, what=f"{server.output} is ready", within_s=START_S_MAX)
        return server, url

    def load(self, url: str, seconds: int) -> Background:
        """Send 1,000 events/s to a server, and look all of them up at the end."""
        rate = ("--eps", "1000", "--batch", "20", "--connections", "8")
        span = ("--duration", f"{seconds}s", "--verify", "--json")
        return self.run("loadtest", *rate, *span, "--url", url)

    def send(self, path: Path, url: str) -> None:
        """Send the same events as ever."""
        done = evp("send", str(path), "--url", url, environ=self.environ, cwd=self._folder)
        assert done.code == 0, done.err


def sound(load: Background) -> str:
    """Wait for a load; each of its events must be stored, once. Return its source."""
    code = load.wait(LOAD_S_MAX).code
    report: dict[str, Any] = json.loads(load.text)
    assert code == 0, load.text
    assert report["rejected"] == {}
    assert (report["check"]["lost"], report["check"]["doubled"]) == (0, 0)
    return f"evp-loadtest-{report['run']}"


def frames_of(stored: Any, source: str, *, by_older: bool) -> int:
    """Return how many frames with events of a source were settled by workers of a release.

    The older one does not write down which worker it was.
    """
    settled = stored.outcomes.find({"worker": {"$exists": not by_older}})
    return sum(source in dict(outcome["sources"]) for outcome in settled)


def test_old_and_new_side_by_side(
    shared: dict[str, str], stored: Any, older: Path, tmp_path: Path
) -> None:
    """Workers of both do what servers of both accept; some are killed, then the old ones go."""
    same = tmp_path / "same.ndjson"
    same.write_text(
        "".join(
            json.dumps({"type": "order", "source": "shop", "id": f"o{n}", "data": {"n": n}}) + "\n"
            for n in range(SHARED_EVENTS)
        )
    )
    with contextlib.ExitStack() as ends:
        site = Site(shared, older, tmp_path, ends)
        old_server, old_url = site.serve(is_old=True)
        old_workers = [site.run("work", is_old=True) for _ in range(2)]
        old_load = site.load(old_url, 15)
        until_now(lambda: bool(stored.outcomes.find_one()), what="the old ones work")
        site.send(same, old_url)
        new_workers = [site.run("work") for _ in range(2)]
        new_server, new_url = site.serve()
        new_load = site.load(new_url, 5)
        site.send(same, new_url)
        for victim in (old_workers[0], new_workers[0]):
            victim.process.kill()
        sources = [sound(new_load), sound(old_load)]
        for source in sources:
            for by_older in (True, False):
                assert frames_of(stored, source, by_older=by_older), (source, by_older)
        for process in (old_workers[1], old_server):
            assert process.stop().code == 0
        sound(site.load(new_url, 2))
        site.send(same, new_url)
        until_now(lambda: groups_in_log(shared) == {GROUP: (0, 0)}, what="all is settled")
        assert new_workers[1].runs
        verified = evp("verify", "--all", "--json", environ=site.environ, cwd=tmp_path)
        report = json.loads(verified.out)
        assert (verified.code, report["clean"]) == (0, True), verified.out
        orders = Counter(one["id"] for one in stored.events.find({"source": "shop"}))
        assert orders == dict.fromkeys((f"o{n}" for n in range(SHARED_EVENTS)), 1)
        assert report["counts"]["duplicate"] == 2 * SHARED_EVENTS
        assert new_server.stop().code == 0
