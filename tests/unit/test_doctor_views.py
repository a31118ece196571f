"""What `evp doctor` shows: the worst first, lines that fit, commands in one piece, no escapes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from evp import configuration
from evp.cli.doctoring import Options, examine_and_tell
from evp.doctor.deployment import Deployment
from evp.doctor.findings import Finding, Mended, Report, Unchecked
from evp.errors import UsageError
from evp.views.doctor import report_view

COMMAND = "redis-cli -h log.internal.example.com -p 6379 CONFIG SET maxmemory-policy noeviction --x"


def finding(severity: str, **changes: str) -> Finding:
    """Return a finding."""
    fields = {"what": "the log evicts", "meaning": "it may go " * 20, "mend": "Let it refuse."}
    return Finding(severity=severity, check="evicts", **fields | changes)  # type: ignore[arg-type]


def text(report: Report, width: int = 80, *, colour: bool = False) -> str:
    """Return what would be printed."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=colour)
    console.print(report_view(report, width), soft_wrap=True)
    return stream.getvalue()


def test_nothing_is_wrong() -> None:
    """A clean report is one line."""
    shown = text(Report("evp:events", "evp", 38))
    assert shown == "evp:events, evp: nothing is wrong (38 of 38 checks made)\n"


@pytest.mark.parametrize("width", [80, 60])
def test_lines_fit_and_commands_are_whole(width: int) -> None:
    """Prose is wrapped; a command stands on a line of its own, to be copied, however long."""
    findings = [finding("error", command=COMMAND), finding("note")]
    shown = text(Report("evp:events", "evp", 38, findings), width)
    lines = shown.splitlines()
    assert lines[0].startswith("evp:events, evp: 1 error, 1 note (38 of 38 checks")
    assert f"    {COMMAND}" in lines
    assert max(len(line) for line in lines if line.strip() != COMMAND) <= width
    assert "\x1b" not in shown


def test_names_of_others_do_no_harm() -> None:
    """Neither escape codes nor markup in a name reach the terminal as such."""
    evil = "\x1b[2Jgroup [red]x[/red]\n\x07"
    report = Report("s", "d", 2, [finding("warning", what=evil, command=evil)])
    report.not_checked = [Unchecked("aof_off", evil)]
    report.away = {"log": evil}
    report.mended = [Mended("evicts", [evil], evil)]
    shown = text(report, 200)
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert shown.count("[red]x[/red]") == 6


def test_what_could_not_be_done_is_told() -> None:
    """Engines that are away, checks that were refused for one reason, mends that failed."""
    report = Report("s", "d", 4, away={"store": "no server"})
    report.not_checked = [Unchecked("one", "no rights"), Unchecked("two", "no rights")]
    report.mended = [Mended("evicts", ["set it"]), Mended("aof_off", failed="refused")]
    lines = text(report).splitlines()
    assert lines[0].endswith("(2 of 4 checks made)")
    assert lines[0].startswith("s, d: nothing was found")
    assert lines[1].startswith("The store is away: no server; `evp up` starts one, EVP_MONGO_URL")
    assert "mended evicts: set it" in lines
    assert "aof_off could not be mended: refused" in lines
    assert "  one, two: no rights" in lines


def test_nobody_can_be_asked(tmp_path: Path) -> None:
    """Without a terminal mending is refused before anything is looked at, unless --yes is given."""
    settings = configuration.load({}, {}, cwd=tmp_path).settings
    with pytest.raises(UsageError, match="--yes says that --fix is meant"):
        examine_and_tell(settings, Options(fix=True, yes=False, json=False))


def test_of_several_partitions_one_is_named() -> None:
    """A finding tells where it is, and a partition that is away is no reason to start a log."""
    report = Report("s", "d", 4, away={"partition 2": "no server", "partition 3": "no server"})
    report.findings = [
        Finding(severity="error", what="w", meaning="m", mend="n", check="evicts", where="a:1")
    ]
    report.not_checked = [Unchecked("one", f"partition {number} is away") for number in (2, 3)]
    lines = text(report).splitlines()
    assert lines[0].endswith("(3 of 4 checks made)")
    assert lines[1] == "Partitions 2, 3 are away: no server"
    assert lines[-1] == "  one: partition 2 is away; partition 3 is away"
    assert "error: evicts, a:1" in lines


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis+cluster://app:x@one.example:7001,two.example:7002", "-h one.example -p 7001"),
        ("rediss+sentinel://one.example:1/main/3?sentinel_password=x", "-p 1 -n 3 --tls"),
    ],
)
def test_commands_for_several_servers(tmp_path: Path, url: str, options: str) -> None:
    """Of an address with several servers a command has the one that was dialled, or the first."""
    settings = configuration.load({"EVP_REDIS_URL": url}, {}, cwd=tmp_path).settings
    assert options in Deployment(settings, cast("Any", None)).redis_cli("PING")


@pytest.mark.parametrize("password", ["hidden", "hid/den", "hid@den", "hid:den"])
def test_commands_hold_no_password(tmp_path: Path, password: str) -> None:
    """A command to be pasted has address and user, and lets the program ask for the password."""
    environ = {
        "EVP_REDIS_URL": f"rediss://app:{password.replace('/', '%2F')}@log.example:7000/2",
        "EVP_MONGO_URL": f"mongodb://app:{password}@a.example:1,b.example/?tls=true&w=1",
    }
    settings = configuration.load(environ, {}, cwd=tmp_path).settings
    at = Deployment(settings, cast("Any", None))
    redis_cli, mongosh = at.redis_cli("PING"), at.mongosh('db.x.dropIndex("y")')
    assert "hid" not in redis_cli + mongosh
    assert "-h log.example -p 7000 -n 2 --tls" in redis_cli
    assert redis_cli.endswith(" PING")
    assert "mongodb://a.example:1,b.example/evp?tls=true" in mongosh
    assert mongosh.endswith("""--eval 'db.x.dropIndex("y")'""")
