"""Alarms, dashboard and scaling ask for metrics that evp tells, and lead to what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from evp.errors import STATUS_BY_CODE
from evp.metrics.counts import IngestCounts
from evp.metrics.families import BY_NAME, HISTOGRAM, Family
from evp.settings import ROWS
from evp.storage.dead_letters import REASONS
from tests.tidy.source import ROOT
from tests.tidy.test_docs import anchors

DEPLOY = ROOT / "deploy"

OTHERS = {
    "kube_job_status_failed": {"job_name"},
    "kube_cronjob_created": {"cronjob"},
    "kube_cronjob_status_last_successful_time": {"cronjob"},
    "node_systemd_unit_state": {"name", "state"},
    "node_systemd_timer_last_trigger_seconds": {"name"},
}
"""Metrics that are not evp's, with the labels by which alarms choose."""

METRIC = re.compile(r"\b((?:evp|process|kube|node)_[a-z_]+)\b(?:\{([^}]*)\})?")
"""A metric in a query, and what it is chosen by."""

OF_A_TARGET = {"job", "instance", "namespace"}
"""Labels that Prometheus gives to whatever it scrapes."""

VALUES: dict[str, set[str]] = {
    "code": {*STATUS_BY_CODE, "accepted"},
    "result": set(IngestCounts().events),
    "reason": set(REASONS),
}
"""What evp's labels may say."""

_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on|without) \(([^)]*)\)")
_PART = re.compile(r"_(bucket|sum|count)$")


def alarms() -> list[dict[str, Any]]:
    """Return all alarms."""
    text = (DEPLOY / "prometheus" / "alerts.yaml").read_text(encoding="utf-8")
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """Return the Grafana dashboard."""
    text = (DEPLOY / "grafana" / "evp.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def queries() -> Iterator[str]:
    """Give every query there is: of alarms, panels, variables, and of KEDA's triggers."""
    yield from (rule["expr"] for rule in alarms())
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found
            yield f"count by ({found[2]}) ({found[1]})"
    chart = (DEPLOY / "helm" / "evp" / "templates" / "worker.yaml").read_text(encoding="utf-8")
    triggers = re.findall(r"^ +query: (.+)$", chart, re.MULTILINE)
    assert len(triggers) == 2
    yield from (re.sub(r"\s*\{\{.*?\}\}\s*", "", one) for one in triggers)


def family_of(name: str) -> Family:
    """Return the family of a metric, or of a part of a histogram."""
    family = BY_NAME.get(name)
    if family is None:
        family = BY_NAME[_PART.sub("", name)]
        assert family.kind == HISTOGRAM, name
    else:
        assert family.kind != HISTOGRAM, f"{name} is told as _bucket, _sum and _count"
    return family


def labels_of(name: str) -> set[str]:
    """Return the labels a metric has."""
    if name in OTHERS:
        return OTHERS[name] | OF_A_TARGET
    return {*family_of(name).labels} | OF_A_TARGET


def test_metrics_and_labels_are_told() -> None:
    """Each metric exists, has the labels by which it is chosen or grouped, and may say so."""
    for query in queries():
        found = [one.groups(default="") for one in METRIC.finditer(query)]
        assert found, query
        known = set[str]()
        for name, matchers in found:
            known |= labels_of(name) | ({"le"} if name.endswith("_bucket") else set())
            for label, _, value in _MATCHER.findall(matchers):
                assert label in labels_of(name), f"{name} has no {label}: {query}"
                assert set(value.split("|")) <= VALUES.get(label, {value}), query
        for grouping in _GROUPING.findall(query):
            assert set(re.split(r",\s*", grouping)) <= known, query


def test_every_alarm_leads_to_what_to_do() -> None:
    """An alarm has a name of its own, a severity, a summary, and a paragraph in the runbook."""
    page = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    section = page.partition("## Alarms, one by one\n")[2].partition("\n## ")[0]
    told = re.findall(r"^### (\w+)$", section, re.MULTILINE)
    assert told == [rule["alert"] for rule in alarms()]
    for rule in alarms():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"].endswith(".")
        file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (file, anchor) == ("docs/OPERATIONS.md", rule["alert"].lower())
        assert anchor in anchors(page)


def test_a_metric_that_is_none_is_found() -> None:
    """What these tests go by is the code: a name that nobody tells is no family."""
    with pytest.raises(KeyError):
        family_of("evp_ingest_event_total")


def test_every_alarm_is_raised_by_the_test_of_alarms() -> None:
    """`promtool test rules` has a case that raises each alarm."""
    text = (DEPLOY / "prometheus" / "alerts.test.yaml").read_text(encoding="utf-8")
    raised = set(re.findall(r'alertname="(\w+)"', text))
    assert raised == {rule["alert"] for rule in alarms()}


def test_servers_errors_are_alarming() -> None:
    """The alarm about refusals names every code of a 5xx that sending events may end in."""
    refuses = next(rule["expr"] for rule in alarms() if rule["alert"] == "EvpRefuses")
    codes = {code for _, _, values in _MATCHER.findall(refuses) for code in values.split("|")}
    every = {code for code, status in STATUS_BY_CODE.items() if status >= 500}
    # A server that stops is replaced; the other two are answers to questions.
    assert codes == every - {"shutting_down", "store_unavailable", "too_slow"}


def test_panels_are_laid_out() -> None:
    """Panels have numbers of their own, a unit, and don't overlap."""
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set[tuple[int, int]]()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "row" or panel["fieldConfig"]["defaults"]["unit"]


def test_group_of_the_workers_is_the_default() -> None:
    """KEDA looks at the group that workers have where nobody sets another one."""
    helpers = (DEPLOY / "helm" / "evp" / "templates" / "_helpers.tpl").read_text(encoding="utf-8")
    default = next(row.default for row in ROWS if row.key == "EVP_CONSUMER_GROUP")
    assert f'"EVP_CONSUMER_GROUP") "{default}"' in helpers
