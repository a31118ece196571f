"""Write anew what docs/SETTINGS.md, docs/CLI.md and docs/METRICS.md take from the code.

    python scripts/docs.py [FOLDER]

Between two marks stands what is made here; the rest is written by hand. The alarms of
docs/METRICS.md are those of deploy/prometheus/alerts.yaml.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from evp.cli.app import app
from evp.metrics.families import EACH, FAMILIES, LOG, SERVE, WORK, Family
from evp.settings import ROWS, Row

BEGIN = "<!-- made by `make docs`; what is changed here is lost -->"
BEGIN_ALARMS = "<!-- made by `make docs` from deploy/prometheus/alerts.yaml -->"
END = "<!-- until here -->"
ALARMS = Path(__file__).parents[1] / "deploy" / "prometheus" / "alerts.yaml"
WIDTH = 80


def settings_table() -> str:
    """Return all settings as one table."""
    head = "| key | also read | default | what it is for | wanted |\n|---|---|---|---|---|"
    return "\n".join([head, *map(settings_row, ROWS)])


def settings_row(row: Row) -> str:
    """Return one setting as a row of the table."""
    also = ", ".join(f"`{name}`" for name in row.also)
    default = f"`{row.default}`" if row.default else ""
    return f"| `{row.key}` | {also} | {default} | {row.purpose} | {row.wanted} |"


def metrics_tables() -> str:
    """Return all metrics, a table for each who tells them."""
    told_by = {
        SERVE: "Told by `evp serve`",
        WORK: "Told by `evp work`",
        LOG: "Told by both, from a look at the log",
        EACH: "Told by both, of each process",
    }
    head = "| metric | kind | labels | what it says |\n|---|---|---|---|"
    return "\n\n".join(
        "\n".join([f"### {title}", "", head, *map(metric_row, families_of(who))])
        for who, title in told_by.items()
    )


def alarms_table() -> str:
    """Return all alarms as one table, each with a link to what to do about it."""
    head = "| alarm | severity | if | for | what it says |\n|---|---|---|---|---|"
    groups = yaml.safe_load(ALARMS.read_text(encoding="utf-8"))["groups"]
    return "\n".join([head, *(alarm_row(rule) for group in groups for rule in group["rules"])])


def alarm_row(rule: dict[str, Any]) -> str:
    """Return one alarm as a row of the table."""
    name, severity = rule["alert"], rule["labels"]["severity"]
    expr = rule["expr"].replace("|", "\\|")
    summary = re.sub(r"\{\{ \$(labels\.)?(\w+).*?\}\}", r"*\2*", rule["annotations"]["summary"])
    link = f"[{name}](OPERATIONS.md#{name.lower()})"
    return f"| {link} | {severity} | `{expr}` | {rule.get('for', '')} | {summary} |"


def families_of(who: str) -> list[Family]:
    """Return what somebody tells."""
    return [family for family in FAMILIES if family.told_by == who]


def metric_row(family: Family) -> str:
    """Return one metric as a row of the table."""
    shown = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {shown} | {family.help} |"


def command_sections() -> str:
    """Return the help of every command: the same on every terminal, so without Rich's boxes."""
    app.rich_markup_mode = None
    helps = commands("evp", get_command(app), None)
    return "\n\n".join(f"## `{name}`\n\n```text\n{text}\n```" for name, text in helps)


def commands(name: str, command: Any, parent: Any) -> Iterator[tuple[str, str]]:
    """Return the full name and the help of a command and of all below it."""
    context = command.make_context(
        name, [], parent, resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH
    )
    below = getattr(command, "commands", {})
    for one in below.values():
        # A list of commands has the first paragraph of each, not what fits on a line.
        one.short_help = (one.help or "").partition("\n\n")[0]
    lines = command.get_help(context).splitlines()
    yield context.command_path, "\n".join(line.rstrip() for line in lines)
    for name_below, one in below.items():
        if not one.hidden:
            yield from commands(name_below, one, context)


def put(path: Path, made: str, mark: str = BEGIN) -> None:
    """Put what was made between the marks of a file."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(mark)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{path} lacks one of the marks:\n{mark}\n{END}")
    path.write_text(f"{before}{begin}\n\n{made}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs"
    put(folder / "SETTINGS.md", settings_table())
    put(folder / "CLI.md", command_sections())
    put(folder / "METRICS.md", alarms_table(), BEGIN_ALARMS)
    put(folder / "METRICS.md", metrics_tables())
