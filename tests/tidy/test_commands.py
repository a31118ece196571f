"""What every command has: an example, `--json` where it tells facts, completion in three shells."""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from evp import errors
from evp.cli.app import app
from evp.cli.context import EXIT_INTERRUPTED
from tests.tidy.source import ROOT

WITHOUT_JSON = {
    "evp up": "it runs until it is stopped; `evp stats --json` tells how it is",
    "evp serve": "it runs until it is stopped; its logs are JSON",
    "evp work": "it runs until it is stopped; its logs are JSON",
    "evp openapi": "it prints JSON anyway",
}

_LINE = re.compile(r"^    ([ │├└─]*)(\w+)(?:  .*?)?(?: (?:exit (\d+)|HTTP .*))?$")


def leaves(name: str, command: Any) -> dict[str, Any]:
    """Return the commands that do something, by their whole names."""
    below = getattr(command, "commands", None)
    if below is None:
        return {name: command}
    return {
        full: one
        for name_below, inner in below.items()
        for full, one in leaves(f"{name} {name_below}", inner).items()
    }


COMMANDS = leaves("evp", get_command(app))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example(name: str) -> None:
    """The help of a command shows how it is used, by its own name."""
    command = COMMANDS[name]
    told = " ".join(f"{command.help} {command.epilog or ''}".split())
    _, found, example = told.partition("Example")
    assert found
    assert name in example


def test_facts_are_told_as_json() -> None:
    """Each command has --json, but for those that are listed with the reason."""
    without = {
        name
        for name, command in COMMANDS.items()
        if "--json" not in {flag for one in command.params for flag in one.opts}
    }
    assert without == set(WITHOUT_JSON)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_each_shell(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script for a shell asks evp, and evp answers with commands, groups and flags."""
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    shown = CliRunner().invoke(app, ["--show-completion"], prog_name="evp")
    assert shown.exit_code == 0
    assert f"_EVP_COMPLETE=complete_{shell}" in shown.stdout
    for typed, answer in (
        ("evp ver", "verify"),
        ("evp dlq re", "replay"),
        ("evp send --ty", "--type"),
    ):
        environ = {
            "_EVP_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(typed.split()) - 1),
            "_TYPER_COMPLETE_ARGS": typed,
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }
        completed = CliRunner().invoke(app, [], prog_name="evp", env=environ)
        assert re.search(rf"(^|\W){answer}\b", completed.stdout), completed.stdout


def test_exit_codes_are_those_of_the_tree() -> None:
    """The tree in errors.py has each error below its base, with the exit code that it ends with."""
    told: dict[str, int | None] = {}
    bases: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        depth, name = len(found[1]) // 4, found[2]
        bases[depth:] = [name]
        assert depth == 0 or getattr(errors, name).__base__.__name__ == bases[depth - 1], name
        told[name] = int(found[3]) if found[3] else None
    classes = {
        name: one
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, errors.EvpError)
    }
    assert set(told) == set(classes)
    for name, code in told.items():
        assert code in {None, classes[name].exit_code}, name
    documented = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "CLI.md").read_text(), re.MULTILINE)
    codes = {one.exit_code for one in classes.values()}
    assert codes | {errors.EXIT_OK, errors.EXIT_THRESHOLD, EXIT_INTERRUPTED} == {
        int(code) for code in documented
    }
