"""Settings: where each comes from, and every problem told at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evp import configuration, running
from evp.configuration import Loaded
from evp.errors import SettingsError, UsageError
from evp.settings import JWT_SECRET_BYTES_MIN, ROWS, Settings, as_environ, parse_api_keys, shown

PRODUCTION = {
    "EVP_ENV": "production",
    "EVP_REDIS_URL": "redis://log:6379",
    "EVP_MONGO_URL": "mongodb://store",
    "EVP_JWT_SECRET": "s" * 32,
    "EVP_API_KEYS": "app:" + "s" * 16,
}


def load(cwd: Path, environ: dict[str, str] | None = None, **flags: object) -> Loaded:
    """Load settings as `evp serve` does, which wants the most."""
    return configuration.load(environ or {}, flags, cwd=cwd, hostname="host-a", serves=True)


def problems(cwd: Path, environ: dict[str, str]) -> dict[str, str]:
    """Return what is wrong: key → what was wanted."""
    with pytest.raises(SettingsError) as caught:
        load(cwd, environ)
    return {problem.key: problem.wanted for problem in caught.value.problems}


def up_json(folder: Path, *, pid: int, boot: str) -> None:
    """Write an `up.json`."""
    running.write(
        folder,
        running.Running(
            http_url="http://127.0.0.1:4001",
            redis_url="redis://127.0.0.1:4002/0",
            mongo_url="mongodb://127.0.0.1:4003/",
            mongo_db="evp",
            api_key="evp_live",
            pid=pid,
            boot=boot,
            children={},
        ),
    )


def test_rows_and_fields_are_the_same(tmp_path: Path) -> None:
    """Each setting has a row, and each row a setting, with a default that is valid."""
    assert [row.name for row in ROWS] == list(Settings.__struct_fields__)
    loaded = load(tmp_path)
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.settings.consumer_name == "host-a"


def test_order_of_origins(tmp_path: Path) -> None:
    """Flag over environment over file over a running `evp up` over default."""
    data_dir = tmp_path / ".evp"
    data_dir.mkdir()

    def port(environ: dict[str, str], **flags: object) -> tuple[int, str]:
        loaded = load(tmp_path, environ, **flags)
        return loaded.settings.port, loaded.origins["port"]

    assert port({}) == (3001, "default")
    up_json(data_dir, pid=os.getpid(), boot=running.boot_id())
    assert port({}) == (4001, "running evp up")
    (tmp_path / "evp.toml").write_text("port = 5001\n")
    assert port({}) == (5001, "file evp.toml")
    assert port({"PORT": "6001"}) == (6001, "env PORT")
    assert port({"PORT": "6001", "EVP_PORT": "7001"}) == (7001, "env EVP_PORT")
    assert port({"EVP_PORT": "7001"}, port=8001) == (8001, "flag")


@pytest.mark.parametrize(("pid", "boot"), [(2**22 + 1, None), (None, "another boot")])
def test_an_up_that_is_gone_does_not_count(
    tmp_path: Path, pid: int | None, boot: str | None
) -> None:
    """`up.json` of a dead process, or from before the machine was started anew, is ignored."""
    data_dir = tmp_path / ".evp"
    data_dir.mkdir()
    up_json(data_dir, pid=pid or os.getpid(), boot=boot or running.boot_id())
    assert load(tmp_path).settings.port == 3001


def test_running_up_does_not_count_in_production(tmp_path: Path) -> None:
    """In production nothing is taken from what happens to run."""
    data_dir = tmp_path / ".evp"
    data_dir.mkdir()
    up_json(data_dir, pid=os.getpid(), boot=running.boot_id())
    loaded = load(tmp_path, PRODUCTION)
    assert loaded.settings.redis_url == "redis://log:6379"
    assert (loaded.settings.port, loaded.settings.host) == (3001, "0.0.0.0")


def test_up_json_is_private(tmp_path: Path) -> None:
    """It holds a key, so only its owner may read it."""
    up_json(tmp_path, pid=1, boot="b")
    assert (tmp_path / "up.json").stat().st_mode & 0o777 == 0o600


def test_every_problem_at_once(tmp_path: Path) -> None:
    """All wrong settings are told together, each with what was wanted."""
    found = problems(
        tmp_path,
        {
            "EVP_PORT": "70000",
            "EVP_REDIS_URL": "http://x",
            "EVP_WRITE_TIMEOUT_MS": "soon",
            "EVP_DURABILITY": "yes",
            "EVP_SHUTDOWN_TIMEOUT_S": "0",
        },
    )
    assert found == {
        "EVP_PORT": "0 to 65535",
        "EVP_REDIS_URL": "redis://…, redis+cluster://… or redis+sentinel://…, with TLS rediss",
        "EVP_WRITE_TIMEOUT_MS": "100 to 600000 milliseconds",
        "EVP_DURABILITY": "auto, declared or memory",
        "EVP_SHUTDOWN_TIMEOUT_S": "seconds",
    }


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        (
            {"EVP_WRITE_TIMEOUT_MS": "45001", "EVP_CLAIM_IDLE_MS": "200000"},
            "EVP_WRITE_TIMEOUT_MS",
        ),
        ({"EVP_CLAIM_IDLE_MS": "45000"}, "EVP_CLAIM_IDLE_MS"),
        ({"EVP_MONGO_MIN_POOL_SIZE": "101"}, "EVP_MONGO_MIN_POOL_SIZE"),
        ({"EVP_JWT_SECRET": "short"}, "EVP_JWT_SECRET"),
        ({"EVP_SHUTDOWN_TIMEOUT_S": "1", "EVP_READ_BLOCK_MS": "1001"}, "EVP_READ_BLOCK_MS"),
    ],
)
def test_relations(tmp_path: Path, environ: dict[str, str], key: str) -> None:
    """Settings that don't fit together are refused before anything starts."""
    assert list(problems(tmp_path, environ)) == [key]


def test_production_requires_addresses_and_secrets(tmp_path: Path) -> None:
    """Production starts on nothing that was made up."""
    required = {"EVP_REDIS_URL", "EVP_MONGO_URL", "EVP_JWT_SECRET"}
    assert set(problems(tmp_path, {"EVP_ENV": "production"})) == required
    load(tmp_path, PRODUCTION)


def test_servers_alone_need_the_secret(tmp_path: Path) -> None:
    """Workers and commands run in production without what would let them be anybody."""
    without = {key: value for key, value in PRODUCTION.items() if key != "EVP_JWT_SECRET"}
    assert set(problems(tmp_path, without)) == {"EVP_JWT_SECRET"}
    assert configuration.load(without, {}, cwd=tmp_path).settings.jwt_secret is None


def test_production_refuses_keys_that_can_be_guessed(tmp_path: Path) -> None:
    """A key of a few characters is a convenience of development."""
    short = {"EVP_API_KEYS": f"app:{'s' * 16},demo:{'s' * 15}"}
    assert problems(tmp_path, PRODUCTION | short) == {
        "EVP_API_KEYS": "secrets of 16 bytes or more in production"
    }
    load(tmp_path, short)


def test_secrets_are_not_told(tmp_path: Path) -> None:
    """Neither a problem nor `config show` tells a secret or an address's password."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, {"EVP_API_KEYS": "a:hunter2,a:hunter2", "REDIS_URL": "x://u:hunter2@h"})
    assert "hunter2" not in str(caught.value)
    environ = {
        "EVP_API_KEYS": "a:hunter2",
        "REDIS_URL": "redis://u:hunter2@h",
        "MONGO_URL": "mongodb://u:hunter2@h/?password=hunter2",
        "JWT_SECRET": "hunter2" * 8,
    }
    settings = load(tmp_path, environ).settings
    told = " ".join(shown(row, settings) for row in ROWS)
    assert "hunter2" not in told
    assert "redis://***@h" in told


def test_config_file_problems(tmp_path: Path) -> None:
    """A file that is missing where named, not TOML, or has an unknown name is told."""
    with pytest.raises(UsageError, match="does not exist"):
        load(tmp_path, {"EVP_CONFIG": str(tmp_path / "none.toml")})
    file = tmp_path / "evp.toml"
    file.write_text("port = = 1")
    with pytest.raises(UsageError, match="not valid TOML"):
        load(tmp_path)
    file.write_text("prot = 1")
    assert problems(tmp_path, {}) == {"evp.toml: prot": "no such setting"}
    file.unlink()
    file.mkdir()
    with pytest.raises(UsageError, match="can't read"):
        load(tmp_path)


def test_empty_config_path_counts_as_not_set(tmp_path: Path) -> None:
    """An empty EVP_CONFIG is no file that is missing."""
    assert load(tmp_path, {"EVP_CONFIG": ""}).settings.port == 3001


def test_api_keys() -> None:
    """Keys have names; a bare one is the default; a doubtful list is refused."""
    assert parse_api_keys("a:x, b:y:z ,w") == {"a": "x", "b": "y:z", "default": "w"}
    for text in ("a:x,a:y", "a:", ":x", "x,y"):
        with pytest.raises(ValueError, match="twice or a part is empty"):
            parse_api_keys(text)


def test_children_get_the_same_settings(tmp_path: Path) -> None:
    """Settings given to a child as environment are the settings it loads."""
    environ = PRODUCTION | {"EVP_READ_COUNT": "7", "EVP_DATA_DIR": str(tmp_path / "d")}
    settings = load(tmp_path, environ, port=9).settings
    assert load(tmp_path, as_environ(settings, {})).settings == settings
    assert load(tmp_path, as_environ(settings, {"port": 10})).settings.port == 10


def test_development_key_is_made_once_and_kept(tmp_path: Path) -> None:
    """The key of a data directory stays the same, and only its owner may read it."""
    path = tmp_path / ".evp" / "api_key"
    key = running.ensure_key(path)
    assert running.ensure_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert load(tmp_path).settings.api_keys == {"default": key}


def test_development_secret_is_read_where_it_is_kept(tmp_path: Path) -> None:
    """Tokens stay good over restarts in development; production takes no secret from a folder."""
    assert load(tmp_path).settings.jwt_secret is None
    secret = running.ensure_key(tmp_path / ".evp" / "jwt_secret", prefix="")
    assert len(secret) >= JWT_SECRET_BYTES_MIN
    assert load(tmp_path).settings.jwt_secret == secret
    without = {key: value for key, value in PRODUCTION.items() if "JWT" not in key}
    assert "EVP_JWT_SECRET" in problems(tmp_path, without)


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", ()),
        ("*", ("*",)),
        ("https://app.example.com", ("https://app.example.com",)),
        (
            "https://App.example.com , http://localhost:5173,",
            ("https://app.example.com", "http://localhost:5173"),
        ),
        ("http://[::1]:8080", ("http://[::1]:8080",)),
    ],
)
def test_origins(tmp_path: Path, text: str, origins: tuple[str, ...]) -> None:
    """Origins are written as browsers write them, and reach a child process unchanged."""
    settings = load(tmp_path, {"EVP_CORS_ORIGINS": text}).settings
    assert settings.cors_origins == origins
    assert load(tmp_path, as_environ(settings, {})).settings.cors_origins == origins
    [row] = [row for row in ROWS if row.name == "cors_origins"]
    assert shown(row, settings) == ",".join(origins)


@pytest.mark.parametrize(
    "text",
    [
        "app.example.com",
        "https://",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://app.example.com?x",
        "https://user@app.example.com",
        "ftp://app.example.com",
        "https://*.example.com,",
        "null",
    ],
)
def test_what_is_no_origin(tmp_path: Path, text: str) -> None:
    """What no browser sends as an origin would let nobody in, so it is told at the start."""
    assert "EVP_CORS_ORIGINS" in problems(tmp_path, {"EVP_CORS_ORIGINS": text})
