"""`evp doctor` as a person runs it: beside a running evp, piped and on a terminal."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from redis import Redis

from tests.e2e.commands import evp, terminal
from tests.support.up import EVP, running_up


@pytest.mark.slow
def test_from_healthy_to_mended(tmp_path: Path, light: dict[str, str]) -> None:
    """A new `evp up` is clean; a fault is exit 1 until --fix, which asks first, has mended it."""
    with running_up(tmp_path, environ=light) as up:
        environ = up.environ | light
        healthy = evp("doctor", environ=environ, cwd=tmp_path)
        assert (healthy.code, healthy.err) == (0, "")
        assert healthy.out.startswith("evp:events, ")
        with Redis.from_url(up.facts.redis_url) as log:
            log.config_set("maxmemory-policy", "allkeys-lru")
            command = [*EVP, "doctor", "--fix"]
            with terminal(command, environ=environ, cwd=tmp_path, columns=80) as screen:
                screen.wait_shows("Mend evicts? [y/N]:")
                screen.type(b"n\n")
                assert screen.wait_ended().code == 1
            assert log.config_get("maxmemory-policy") == {"maxmemory-policy": "allkeys-lru"}
            done = evp("doctor", "--fix", "--yes", "--json", environ=environ, cwd=tmp_path)
            report = json.loads(done.out)
            assert (done.code, report["clean"], report["findings"]) == (0, True, [])
            assert [one["check"] for one in report["mended"]] == ["evicts"]
            assert log.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_interrupted(shared: dict[str, str], tmp_path: Path) -> None:
    """Ctrl-C while it looks ends with 130 and no traceback."""
    nobody = shared | {"EVP_MONGO_URL": "mongodb://10.255.255.1:1"}
    with terminal([*EVP, "doctor"], environ=nobody, cwd=tmp_path, columns=80) as screen:
        screen.wait_shows("looking")
        screen.press_ctrl_c()
        assert screen.wait_ended().code == 128 + signal.SIGINT
        assert "Traceback" not in screen.text
