"""A plugin of pytest that writes down what became of each test, and whose evp it tested.

    pytest -p tests.mutants.witness --testimony FILE …

One JSON object a line. Of a test that failed it tells whether the test complained (an
assertion, an error that did not come) or broke (an import, a time-out, anything else).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from tests.support.wait import NotInTime

_TIMEOUT = "Timeout"
"""How the complaint begins by which pytest-timeout ends a test."""


class Phase(Struct, tag=True):
    """What became of one phase of a test, and when, in seconds since 1970.

    `outcome` is "passed", "failed" or "skipped"; `when` is "setup", "call" or "teardown".
    """

    test: str
    when: str
    outcome: str
    at_s: float
    is_complaint: bool = False
    error: str = ""


class Ended(Struct, tag=True):
    """The end of the run: the files of every module of evp that was imported."""

    files: list[str]


Testimony = Phase | Ended


def complains(error: BaseException) -> bool:
    """Return True for what a test raises when it has found something wrong."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(complains, error.exceptions))
    if isinstance(error, pytest.fail.Exception):
        return not str(error).startswith(_TIMEOUT)
    return isinstance(error, AssertionError) and not isinstance(error, NotInTime)


def read(path: Path) -> list[Testimony]:
    """Return what a run has written; nothing if it did not get so far."""
    if not path.exists():
        return []
    decoder = msgspec.json.Decoder(Testimony)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()]


class Witness:
    """Writes to a file what happens."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Write down what became of a phase."""
        report = yield
        phase = Phase(item.nodeid, str(report.when), report.outcome, time.time())
        if report.failed and call.excinfo is not None:
            phase.is_complaint = complains(call.excinfo.value)
            phase.error = call.excinfo.exconly().partition("\n")[0]
        self._write(phase)
        return report

    def pytest_sessionfinish(self) -> None:
        """Write down whose evp was tested."""
        loaded = [module for name, module in sys.modules.items() if name.partition(".")[0] == "evp"]
        files = [getattr(module, "__file__", None) for module in loaded]
        self._write(Ended(sorted(str(Path(file).resolve()) for file in files if file)))

    def _write(self, testimony: Testimony) -> None:
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(testimony) + b"\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the name of the file."""
    parser.addoption("--testimony", type=Path, help="where to write what became of each test")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to write."""
    path: Path | None = config.getoption("testimony")
    if path is not None:
        config.pluginmanager.register(Witness(path))
