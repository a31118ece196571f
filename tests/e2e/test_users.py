"""`evp users`: making people, and what becomes of their logins, over HTTP as they see it."""

from __future__ import annotations

import json
import re
import secrets
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import Finished, evp, terminal
from tests.support.up import EVP, Up
from tests.support.wait import until_now

PASSWORD = "correct horse battery"
OTHER = "another horse battery"
TAG = secrets.token_hex(4)
"""What makes names new in a store that keeps them."""


def run(up: Up, *arguments: str, password: str = "") -> Finished:
    """Run `evp users …` where it finds the running `evp up`."""
    return evp("users", *arguments, environ=up.environ, cwd=up.folder, stdin=password.encode())


def ask(url: str, path: str, body: object = None, token: str = "") -> tuple[int, Any]:
    """Ask the server; return status and answer."""
    headers = {"content-type": "application/json"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", raw, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.loads(reply.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def login(url: str, name: str, password: str) -> tuple[int, Any]:
    """Log in."""
    return ask(url, "/auth/login", {"username": name, "password": password})


def rows(up: Up) -> dict[str, Any]:
    """Return what `evp users list --json` tells, by name."""
    done = run(up, "list", "--json")
    assert done.code == 0, done.err
    return {row["name"]: row for row in json.loads(done.out)}


@pytest.mark.slow
def test_a_login_is_told_once(light: dict[str, str], tmp_path: Path) -> None:
    """The first start makes an admin, the second one nobody: who was logged in still is."""
    up = Up(tmp_path, environ=light)
    try:
        up.run()
        until_now(lambda: "Login: " in up.text, what="the login is told")
        line = re.compile(r"^Login: admin / (\S+) \(told only now\)$", re.MULTILINE)
        [password] = line.findall(up.text)
        _, grant = login(up.http_url, "admin", password)
        _, me = ask(up.http_url, "/auth/me", token=grant["access_token"])
        assert me == {"name": "admin", "scopes": ["admin", "read"]}
        assert password not in (up.data_dir / "up.json").read_text()
        secret = (up.data_dir / "jwt_secret").read_text()
        assert (up.data_dir / "jwt_secret").stat().st_mode & 0o777 == 0o600
        up.stop()
        up.run()
        until_now(lambda: "running" in up.text, what="it runs")
        assert "Login: " not in up.text
        assert secret == (up.data_dir / "jwt_secret").read_text()
        assert secret.strip() not in up.text
        assert ask(up.http_url, "/auth/me", token=grant["access_token"])[0] == 200
    finally:
        up.clean_up()


@pytest.mark.slow
def test_life_of_a_user(up: Up) -> None:
    """Made, logged in, another password, disabled, enabled: each does what it says."""
    name = f"life-{TAG}"
    done = run(up, "create", name.title(), password=PASSWORD + "\n")
    assert (done.code, done.out) == (0, f"user {name} is made, with the scope read\n")
    assert rows(up)[name]["disabled"] is False
    status, grant = login(up.http_url, name, PASSWORD)
    assert status == 200
    again = {"refresh_token": grant["refresh_token"]}
    assert run(up, "passwd", name, password=OTHER).out == f"user {name} has another password\n"
    assert ask(up.http_url, "/auth/refresh", again)[0] == 401
    assert login(up.http_url, name, PASSWORD)[0] == 401
    assert run(up, "disable", name).out == f"user {name} is disabled\n"
    assert run(up, "disable", name).code == 0
    assert rows(up)[name]["disabled"] is True
    assert login(up.http_url, name, OTHER)[0] == 401
    assert run(up, "enable", name).out == f"user {name} is enabled\n"
    status, grant = login(up.http_url, name, OTHER)
    assert ask(up.http_url, "/auth/me", token=grant["access_token"])[0] == 200


def test_listing_shows_no_hash(up: Up) -> None:
    """The list tells who there is and since when, and nothing of a password."""
    done = run(up, "create", f"shown-{TAG}", "--scope", "admin", "--json", password=PASSWORD)
    assert set(json.loads(done.out)) == {
        *("name", "scopes", "version", "disabled", "created_at", "password_at")
    }
    text = run(up, "list").out
    [words] = [
        line.split() for line in text.splitlines() if line.strip().startswith(f"shown-{TAG}")
    ]
    assert words[1:3] == ["admin", "enabled"]
    assert "argon2" not in text + json.dumps(rows(up)) + done.out


def test_what_can_not_be_done(up: Up) -> None:
    """A user that is there already, or isn't, and a bad password are one line and exit 2."""
    for words, told in (
        ("create admin", "there is a user admin already; `evp users passwd admin`"),
        ("create $where", "can't be a user name"),
        ("disable nobody", "there is no user nobody; `evp users list` shows"),
    ):
        done = run(up, *words.split(), password=PASSWORD)
        assert done.code == 2
        assert told in done.one_line
    short = run(up, "passwd", "admin")
    assert short.code == 2
    assert "at least 12 characters" in short.one_line


def test_the_password_is_asked_for(up: Up) -> None:
    """At a terminal it is asked for twice and not shown; two that differ are asked for again."""
    command = [*EVP, "users", "create", f"typed-{TAG}"]
    with terminal(command, environ=up.environ, cwd=up.folder, columns=80) as screen:
        for prompts, password in (
            ("Password: ", PASSWORD),
            ("Repeat for confirmation: ", OTHER),
            ("do not match.\r\nPassword: ", PASSWORD),
            ("do not match.\r\nPassword: \r\nRepeat for confirmation: ", PASSWORD),
        ):
            # With the space after it, which comes once nothing that is typed is shown.
            screen.wait_shows(prompts)
            screen.type(password.encode() + b"\n")
        assert screen.wait_ended().code == 0
    assert f"user typed-{TAG} is made" in screen.text
    assert PASSWORD not in screen.text
    assert OTHER not in screen.text
    assert login(up.http_url, f"typed-{TAG}", PASSWORD)[0] == 200


def test_no_store(clean: dict[str, str], tmp_path: Path) -> None:
    """Without a store it ends in 3 and one line."""
    environ = clean | {"EVP_MONGO_URL": "mongodb://127.0.0.1:1"}
    done = evp("users", "list", environ=environ, cwd=tmp_path)
    assert done.code == 3
    assert "`evp up` starts one, EVP_MONGO_URL names another one" in done.one_line


def test_nobody_yet(shared: dict[str, str], tmp_path: Path) -> None:
    """Where there is no user, it is said how to make one."""
    done = evp("users", "list", environ=shared, cwd=tmp_path)
    assert (done.code, done.out) == (0, "no users yet; `evp users create NAME` makes one\n")
