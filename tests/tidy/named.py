"""What documents name, and whether it is there."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from evp.cli.app import app
from evp.server.operations import OPERATIONS
from evp.settings import ROWS
from tests.tidy.source import ROOT

PAGES = {"GET /", "GET /docs"}
"""For people, so not in the document of the API."""

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Return a command and all below it, with their whole names."""
    yield name, command
    for name_below, below in getattr(command, "commands", {}).items():
        yield from commands(f"{name} {name_below}", below)


COMMANDS: dict[str, Any] = dict(commands("evp", get_command(app)))


@cache
def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@cache
def _functions(path: str) -> set[str]:
    """Return the names of a file's functions."""
    tree = ast.parse(_text(path))
    found = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {node.name for node in found}


@cache
def variables() -> set[str]:
    """Return what is read of the environment: by evp, by its tests, by the Makefile."""
    files = [*(ROOT / "tests").rglob("*.py"), ROOT / "Makefile"]
    ours = "\n".join(path.read_text(encoding="utf-8") for path in files)
    settings = {name for row in ROWS for name in (row.key, *row.also)}
    return settings | set(re.findall(r"\bEVP_\w+", ours)) | {"EVP_CONFIG"}


def is_there(name: str) -> bool:
    """Return whether what a document has between backticks is there; True for other words."""
    first, *rest = name.split() or [""]
    if re.match(r"(tests|scripts)/", first):
        path, _, test = first.partition("::")
        whole = ROOT / path
        return whole.exists() and (not test or test in _functions(path))
    if re.fullmatch(r"[\w-]+/[\w/-]+\.py", first):
        return (ROOT / first).exists() or (ROOT / "evp" / first).exists()
    if first == "evp":
        return is_command(name)
    if first == "make" and rest:
        targets = re.findall(r"^([a-z-]+):", _text("Makefile"), re.MULTILINE)
        return rest[0] in targets
    if first in {"GET", "POST"} and rest:
        path = rest[0].partition("?")[0]
        return f"{first} {path}" in {*OPERATIONS, *PAGES}
    if re.fullmatch(r"EVP_[A-Z_]+", first.partition("=")[0]):
        return first.partition("=")[0] in variables()
    return True


def is_command(line: str) -> bool:
    """Return whether a line begins with a command of evp, and has only flags of its own."""
    words = line.split()
    name, command = _named(words)
    known = {flag for one in command.params for flag in one.opts} | {"--help"}
    below = [word for word in words[len(name.split()) :] if not word.startswith("-")]
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    is_group = bool(getattr(command, "commands", None))
    return flags <= known and not (is_group and below and re.fullmatch(r"[a-z-]+", below[0]))


def lines_of_shell(path: Path) -> Iterator[str]:
    """Return the command lines of evp that a document has for a shell, each to its own end."""
    for kind, text in _FENCE.findall(path.read_text(encoding="utf-8")):
        prompt = {"console": r"\$ ", "sh": ""}.get(kind)
        if prompt is not None:
            for line in re.findall(rf"^{prompt}(evp .*)$", text, re.MULTILINE):
                if not line.endswith("\\"):
                    yield line


def parse(line: str) -> None:
    """Have a command line read as evp reads it, up to where it would begin.

    Flags of evp itself (`--version`, `--install-completion`) act at once, so those lines are
    not read. Raises TyperException.
    """
    words = _ended(shlex.split(line, comments=True))
    name, command = _named(words)
    if name == "evp":
        return
    with contextlib.suppress(typer.Exit):  # `--help` tells and ends.
        command.make_context(name, words[len(name.split()) :])


def _ended(words: list[str]) -> list[str]:
    """Return the words of the first command of a line."""
    for place, word in enumerate(words):
        if word in {"|", "&&", "&", ">", "<", ";"}:
            return words[:place]
        if word.endswith(";"):
            return [*words[:place], word[:-1]]
    return words


def _named(words: list[str]) -> tuple[str, Any]:
    """Return the longest command that words begin with."""
    found = [" ".join(words[:n]) for n in range(1, len(words) + 1)]
    name = max((one for one in found if one in COMMANDS), key=len)
    return name, COMMANDS[name]
