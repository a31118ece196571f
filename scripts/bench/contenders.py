"""Who is compared with evp: programs of their own in `contenders/`, and how each is built.

A server appends to a stream and a worker moves it to the store, one process each, as
with evp's defaults. What they need is installed into `.bench/` at first use.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from processes import Failed

SOURCES = Path(__file__).parent / "contenders"
BUILT = Path(__file__).parents[2] / ".bench"


def prefer_built_store() -> None:
    """Have the compiled store found first, where `make bench-store` has built it."""
    store = BUILT / "store" / "bin"
    if store.exists():
        os.environ["PATH"] = f"{store}{os.pathsep}{os.environ['PATH']}"


class Contender(NamedTuple):
    """A program of somebody else's: what it needs, how it is built and run.

    In commands `{source}` and `{built}` are its folders.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    install: tuple[tuple[str, ...], ...]
    serve: tuple[str, ...]
    work: tuple[str, ...]


_VENV = (
    (sys.executable, "-m", "venv", "{built}"),
    ("{built}/bin/python", "-m", "pip", "install", "-q", "-r", "{source}/requirements.txt"),
)
_NPM = ("npm", "install", "--silent", "--no-package-lock", "--no-audit", "--no-fund")
_PYTHON = "{built}/bin/python"

OTHERS = (
    Contender(
        "fastify",
        "Fastify, ioredis, mongodb",
        ("node", "npm"),
        (("cp", "-R", "{source}/.", "{built}"), (*_NPM, "--prefix", "{built}")),
        ("node", "{built}/serve.js"),
        ("node", "{built}/work.js"),
    ),
    Contender(
        "fastapi",
        "FastAPI, redis-py, pymongo",
        (),
        _VENV,
        (_PYTHON, "{source}/serve.py"),
        (_PYTHON, "{source}/work.py"),
    ),
    Contender(
        "faststream",
        "FastAPI, FastStream",
        (),
        _VENV,
        (_PYTHON, "{source}/serve.py"),
        (_PYTHON, "{source}/work.py"),
    ),
    Contender(
        "connect",
        "Redpanda Connect (Benthos)",
        ("go",),
        (("go", "build", "-C", "{source}", "-o", "{built}/connect", "."),),
        ("{built}/connect", "-c", "{source}/serve.yaml"),
        ("{built}/connect", "-c", "{source}/work.yaml"),
    ),
)


def install(contender: Contender) -> None:
    """Build a contender unless that was done. Raises Failed, which names what is missing."""
    missing = [name for name in contender.needs if shutil.which(name) is None]
    if missing:
        raise Failed(f"{' and '.join(missing)} not found")
    built, source = BUILT / contender.name, SOURCES / contender.name
    mark = built / "installed"
    files = sorted(path for path in source.rglob("*") if path.suffix != ".pyc" and path.is_file())
    state = hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
    if mark.exists() and mark.read_text() == state:
        return
    print(f"building {contender.title} in {built}", file=sys.stderr, flush=True)
    built.mkdir(parents=True, exist_ok=True)
    for command in contender.install:
        done = subprocess.run(filled(contender, command), check=False, capture_output=True)
        if done.returncode:
            raise Failed(f"{command[0]} failed: {done.stderr.decode(errors='replace')[-500:]}")
    mark.write_text(state)


def filled(contender: Contender, command: tuple[str, ...]) -> list[str]:
    """Return a command with the contender's folders in it."""
    folders = {"source": SOURCES / contender.name, "built": BUILT / contender.name}
    return [part.format(**folders) for part in command]
