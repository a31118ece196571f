"""The other commands, and what all commands have in common: help, exit codes, output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import evp
from evp.stats import Stats
from tests.e2e import commands
from tests.e2e.commands import Finished, background
from tests.support.make import event, ndjson
from tests.support.up import EVP, Up
from tests.support.wait import WAIT_S_MAX, until_now

COMMANDS = ("up", "serve", "work", "send", "stats", "verify", "health", "config")


def ask(up: Up, *arguments: str) -> Finished:
    """Run a command where it finds the running `evp up`."""
    return commands.evp(*arguments, environ=up.environ, cwd=up.folder)


def alone(clean: dict[str, str], folder: Path, *arguments: str) -> Finished:
    """Run a command where it finds nothing."""
    return commands.evp(*arguments, environ=clean, cwd=folder)


def looks(text: str) -> list[dict[str, object]]:
    """Return what `evp stats --json` printed, look by look."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def piped(command: str, environ: dict[str, str], folder: Path) -> tuple[int, str]:
    """Run a line of shell in which `evp` is the command; return exit code and stderr."""
    script = f'set -o pipefail; evp() {{ {EVP[0]} -m evp "$@"; }}; {command}'
    shell = subprocess.Popen(
        ["bash", "-c", script],
        env=environ,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, told = shell.communicate(timeout=WAIT_S_MAX)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGTERM)
        raise
    return shell.returncode, told.decode()


@pytest.mark.parametrize("name", ["up", "config show"])
def test_help(clean: dict[str, str], tmp_path: Path, name: str) -> None:
    """A command explains itself and has an example."""
    done = alone(clean, tmp_path, *name.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: evp {name}" in done.out
    assert "Example" in done.out


def test_help_of_all(clean: dict[str, str], tmp_path: Path) -> None:
    """Without a command, or with -h, all are listed; the first is usage, exit 2."""
    done = alone(clean, tmp_path, "-h")
    assert done.code == 0
    assert all(re.search(rf"^\W*{name} ", done.out, re.MULTILINE) for name in COMMANDS)
    assert alone(clean, tmp_path).code == 2


def test_version(clean: dict[str, str], tmp_path: Path) -> None:
    """--version tells what a report of a fault needs: evp, Python, and the engines found here."""
    done = alone(clean, tmp_path, "--version")
    assert (done.code, done.err) == (0, "")
    first, *_, log, store = done.out.splitlines()
    assert re.fullmatch(rf"evp {re.escape(evp.__version__)} \(Python 3\.\d+\.\d+, .+\)", first)
    assert re.fullmatch(r"log +(valkey|redis)-server \d\S* \(.+\)", log)
    assert re.fullmatch(r"store +(mongod|secantusd)\S*( \d\S*)? \(.+\)", store)
    told = json.loads(alone(clean, tmp_path, "--json", "--version").out)
    assert told["evp"] == evp.__version__
    assert told["log"]["kind"] in log


def test_completion_in_bash(clean: dict[str, str], tmp_path: Path) -> None:
    """The script that evp prints completes a command in a real bash."""
    program = tmp_path / "evp"
    program.write_text(f'#!/bin/sh\nexec {" ".join(EVP)} "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(_EVP_COMPLETE=source_bash evp)"; COMP_WORDS=(evp ver); COMP_CWORD=1; '
        '_evp_completion evp; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        env=clean | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("verify\n", "")


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["--json"], ["up", "--nonsense"], ["stats", "--watch", "0"]]
)
def test_wrong_use(clean: dict[str, str], tmp_path: Path, arguments: list[str]) -> None:
    """What is no command or no flag is exit 2, on stderr, without a traceback."""
    done = alone(clean, tmp_path, *arguments)
    assert (done.code, done.out) == (2, "")
    assert "Usage: evp" in done.err
    assert "Traceback" not in done.err


def test_stats(up: Up) -> None:
    """One look tells what was accepted and stored, and who works."""
    up_events = ndjson(*(event(number, source="stats") for number in range(50)))
    commands.evp("send", "-", environ=up.environ, cwd=up.folder, stdin=up_events)
    up.wait_stored("stats", 50)
    done = ask(up, "stats", "--once")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"evp:events: [\d,]+ frames, [\d.]+ .?i?B in the log", done.out)
    for line in ("accepted", "stored", "duplicate", "dead", "in the log"):
        assert re.search(rf"^{line} +[\d.,]+(k?/s)? +[\d,]+ *$", done.out, re.MULTILINE), line
    assert re.search(r"^balance +(adds|added) up", done.out, re.MULTILINE)
    assert "evp-workers-group *" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_stats_watch(up: Up) -> None:
    """With --watch and --json it prints an object a look until Ctrl-C, which ends it with 130."""
    with background(
        "stats", "--watch", "0.2", "--json", environ=up.environ, cwd=up.folder
    ) as watching:
        until_now(lambda: len(looks(watching.text)) >= 3, what="three looks")
        assert watching.stop(signal.SIGINT).code == 130
    assert "Traceback" not in watching.text
    for look in looks(watching.text):
        assert set(look) == set(Stats.__struct_fields__)


def test_stats_while_the_log_is_away(up: Up) -> None:
    """A log that goes away is told, look by look, until it is there again."""
    watch = ("stats", "--watch", "0.2", "--json")
    with background(*watch, environ=up.environ, cwd=up.folder) as watching:
        until_now(lambda: bool(looks(watching.text)), what="a look")
        pid = up.kill_child("log")
        until_now(lambda: "error" in looks(watching.text)[-1], what="it is told")
        up.wait_restarted("log", pid)
        until_now(lambda: "log" in looks(watching.text)[-1], what="it is there again")
        watching.stop(signal.SIGINT)


def test_stats_excluding_flags(up: Up) -> None:
    """--once and --watch together are exit 2."""
    done = ask(up, "stats", "--once", "--watch", "1")
    assert done.code == 2
    assert "--watch" in done.one_line


def test_stats_without_a_log(clean: dict[str, str], tmp_path: Path) -> None:
    """Without a log one line says where it was looked for and what to do; exit 3."""
    done = alone(clean, tmp_path, "stats")
    assert done.code == 3
    assert "can't reach the log at redis://127.0.0.1:6379/0" in done.one_line
    assert "`evp up` starts one, EVP_REDIS_URL names another one" in done.one_line


def test_health(up: Up) -> None:
    """A server that is ready is exit 0, in words or as the server says it."""
    assert ask(up, "health")[:3] == (0, "ready\n", "")
    done = ask(up, "health", "--json")
    assert done.code == 0
    json.loads(done.out)


def test_health_of_a_server_that_is_not_ready(clean: dict[str, str], tmp_path: Path) -> None:
    """A server without a log lives and is not ready: exit 3 and the reason's code."""
    clean |= {"EVP_PORT": "0", "EVP_REDIS_URL": "redis://127.0.0.1:1", "EVP_DRAIN_DELAY_MS": "0"}
    with background("serve", environ=clean, cwd=tmp_path) as serving:
        serving.wait_says('"event":"serving"')
        found = re.search(r'"port":(\d+)', serving.text)
        assert found is not None
        at = ("--url", f"http://127.0.0.1:{found[1]}")
        assert alone(clean, tmp_path, "health", "--live", *at)[:3] == (0, "live\n", "")
        done = alone(clean, tmp_path, "health", *at)
        assert done[:3] == (3, "not ready: log_unavailable\n", "")


def test_health_without_a_server(clean: dict[str, str], tmp_path: Path) -> None:
    """No server at all is one line and exit 3."""
    done = alone(clean, tmp_path, "health")
    assert done.code == 3
    assert "no answer from evp at http://127.0.0.1:3001" in done.one_line


def test_config_show(up: Up, tmp_path: Path) -> None:
    """Every setting has its value and origin; secrets and passwords are masked."""
    (tmp_path / "evp.toml").write_text("stream = 'other'\n")
    environ = up.environ | {
        "MONGO_URL": "mongodb://u:hunter2@h/",
        "EVP_JWT_SECRET": "hunter2" * 8,
        "EVP_PORT": "4000",
    }
    done = commands.evp("config", "show", "--json", environ=environ, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    rows = {key: (row["value"], row["origin"]) for key, row in json.loads(done.out).items()}
    assert rows["EVP_STREAM"] == ("other", "file evp.toml")
    assert rows["EVP_PORT"] == ("4000", "env EVP_PORT")
    assert rows["EVP_REDIS_URL"] == (up.facts.redis_url, "running evp up")
    assert rows["EVP_API_KEYS"] == ("default:***", "running evp up")
    assert rows["EVP_MONGO_URL"] == ("mongodb://***@h/", "env MONGO_URL")
    assert rows["EVP_JWT_SECRET"] == ("***", "env EVP_JWT_SECRET")
    assert rows["EVP_MONGO_DB"] == ("up", "running evp up")
    assert rows["EVP_LOG_LEVEL"] == ("info", "default")
    table = commands.evp("config", "show", environ=environ, cwd=tmp_path)
    assert table.code == 0
    assert "hunter2" not in table.out + done.out
    assert up.api_key not in table.out + done.out
    assert re.search(r"EVP_PORT +4000 +env EVP_PORT", table.out)


def test_wrong_settings(clean: dict[str, str], tmp_path: Path) -> None:
    """All wrong settings are told at once, each with what was wanted; exit 2."""
    clean |= {"EVP_PORT": "70000", "EVP_REDIS_URL": "http://u:hunter2@h"}
    done = alone(clean, tmp_path, "up")
    assert done.code == 2
    wanted = "redis://…, redis+cluster://… or redis+sentinel://…, with TLS rediss"
    assert done.err.splitlines() == [
        "evp: wrong settings:",
        "  EVP_PORT = '70000': wanted 0 to 65535",
        f"  EVP_REDIS_URL = 'http://***@h': wanted {wanted}",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "evp config show | head -1",
        "evp config show --json | true",
        "evp stats --watch 0.2 | head -1",
        "evp stats --watch 0.2 --json | true",
        "evp --version | true",
    ],
)
def test_reader_that_leaves(up: Up, line: str) -> None:
    """A reader that has seen enough is no error: no traceback, and exit 0."""
    assert piped(line, up.environ, up.folder) == (0, "")


def test_refusals_count_also_when_nobody_reads(up: Up) -> None:
    """The exit code does not depend on a reader."""
    assert piped("echo [] | evp send - | true", up.environ, up.folder) == (1, "")


def test_no_warning_of_python(up: Up) -> None:
    """Commands run clean also where every warning is shown."""
    environ = up.environ | {"PYTHONWARNINGS": "default"}
    for arguments in (["config", "show"], ["send", "--type", "t"]):
        done = commands.evp(*arguments, environ=environ, cwd=up.folder)
        assert (done.code, done.err) == (0, "")
