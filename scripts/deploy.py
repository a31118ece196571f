"""Write anew what the files below deploy/ take from the code, and from each other.

    python scripts/deploy.py [FOLDER]

The Grafana dashboard is made of `dashboard.py`; the chart gets copies of it and of the alarms,
since a chart holds its own files; its schema knows the settings of evp, so that a name that is
none is refused; its README has a table of its values.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dashboard import dashboard
from docs import put
from evp.settings import ROWS

#: What the chart sets by itself, from values with other names.
OF_THE_CHART = {
    "EVP_ENV",
    "EVP_PORT",
    "EVP_DATA_DIR",
    "EVP_CONSUMER_NAME",
    "EVP_METRICS_PORT",
    "EVP_DRAIN_DELAY_MS",
    "EVP_SHUTDOWN_TIMEOUT_S",
    "EVP_REDIS_URL",
    "EVP_MONGO_URL",
    "EVP_JWT_SECRET",
    "EVP_API_KEYS",
    "EVP_METRICS_TOKEN",
}
_TOLD = re.compile(r"^(?P<indent> *)# -- (?P<about>.+)\n(?P=indent)(?P<key>\w+):", re.MULTILINE)
_PARENT = re.compile(r"^(?P<indent> *)(?P<key>\w+):\s*(#.*)?$", re.MULTILINE)


def values_table(text: str) -> str:
    """Return the values that are told in a values.yaml, with their defaults."""
    values = yaml.safe_load(text)
    head = "| value | default | what it is for |\n|---|---|---|"
    rows = (f"| `{path}` | {_shown(_at(values, path))} | {about} |" for path, about in _told(text))
    return "\n".join([head, *rows])


def _told(text: str) -> Iterator[tuple[str, str]]:
    """Give the path of each value that is told, and what is said of it."""
    for told in _TOLD.finditer(text):
        path, indent = [told["key"]], len(told["indent"])
        for above in reversed(list(_PARENT.finditer(text, 0, told.start()))):
            if len(above["indent"]) < indent:
                path.insert(0, above["key"])
                indent = len(above["indent"])
        yield ".".join(path), told["about"]


def _at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def _shown(value: Any) -> str:
    if value in ("", [], {}):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def write(folder: Path) -> None:
    """Write all of it into a folder like deploy/."""
    chart = folder / "helm" / "evp"
    made = json.dumps(dashboard(), indent=2) + "\n"
    (folder / "grafana" / "evp.json").write_text(made, encoding="utf-8")
    (chart / "files").mkdir(exist_ok=True)
    (chart / "files" / "evp.json").write_text(made, encoding="utf-8")
    alarms = (folder / "prometheus" / "alerts.yaml").read_text(encoding="utf-8")
    (chart / "files" / "alerts.yaml").write_text(alarms, encoding="utf-8")
    schema = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))
    names = [row.key for row in ROWS if row.key not in OF_THE_CHART]
    schema["$defs"]["settings"]["propertyNames"]["enum"] = names
    text = json.dumps(schema, indent=2) + "\n"
    (chart / "values.schema.json").write_text(text, encoding="utf-8")
    put(chart / "README.md", values_table((chart / "values.yaml").read_text(encoding="utf-8")))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "deploy")
