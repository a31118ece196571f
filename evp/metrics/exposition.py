"""Readings as the text that Prometheus, or whoever speaks OpenMetrics, asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from evp.metrics.board import Note, Reading
from evp.metrics.families import BY_NAME, COUNTER, FAMILIES, HISTOGRAM, LOG, Family, Values
from evp.metrics.histogram import Histogram

PLAIN = "text/plain"
_OPEN_METRICS_KIND = "application/openmetrics-text"
OPEN_METRICS = f"{_OPEN_METRICS_KIND}; version=1.0.0"

_Readings = Mapping[str, Sequence[Reading]]
"""By who tells them: a process, or a partition of the log."""

_of_process = ProcessCollector(registry=None)


def readings_of(values: Values) -> Iterator[Reading]:
    """Give what somebody tells, value by value."""
    for name, value in values.items():
        if isinstance(value, Histogram):
            yield Reading(name, "", value.total, list(value.counts))
        elif isinstance(value, float | int):
            yield Reading(name, "", float(value))
        else:
            for label, one in value.items():
                yield Reading(name, label, float(one))


def readings_of_process() -> Iterator[Reading]:
    """Give what the system tells of this process; nothing where it tells nothing. Blocks."""
    for metric in _of_process.collect():
        for sample in metric.samples:
            if sample.name in BY_NAME:
                yield Reading(sample.name, "", sample.value)


def format_of(accept: str) -> str:
    """Return which of the two formats there are a client prefers: PLAIN or OPEN_METRICS."""
    for wanted in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in wanted.split(";"))
        if kind == _OPEN_METRICS_KIND:
            versions = [one for one in parameters if one.startswith("version=")]
            if not versions or versions[0].startswith("version=1."):
                return OPEN_METRICS
    return PLAIN


def told(notes: Iterable[Note], log: Mapping[str, Values], format_: str) -> tuple[bytes, str]:
    """Return the text, and its content type, in a format (`format_of`).

    `notes` are those of all processes, `log` is what the log tells by partition.
    """
    by_process = {note.process: note.readings for note in notes}
    by_partition = {number: list(readings_of(values)) for number, values in log.items()}
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told(by_process, by_partition))
    encode, content_type = choose_encoder(format_)
    return encode(registry), content_type


class _Told(Collector):
    def __init__(self, by_process: _Readings, by_partition: _Readings) -> None:
        self._by_process = by_process
        self._by_partition = by_partition

    def collect(self) -> Iterator[Metric]:
        """Give each family that anything is known of."""
        for family in FAMILIES:
            metric = _metric(family)
            told_by = self._by_partition if family.told_by == LOG else self._by_process
            for teller, readings in told_by.items():
                _add(metric, family, readings, teller)
            if metric.samples:
                yield metric


def _metric(family: Family) -> Metric:
    labels = family.labels
    if family.kind == HISTOGRAM:
        return HistogramMetricFamily(family.name, family.help, labels=labels)
    if family.kind == COUNTER:
        return CounterMetricFamily(family.name, family.help, labels=labels)
    return GaugeMetricFamily(family.name, family.help, labels=labels)


def _add(metric: Metric, family: Family, readings: Sequence[Reading], teller: str) -> None:
    for one in readings:
        if one.family != family.name:
            continue
        labels = [one.label, teller] if family.label else [teller]
        if isinstance(metric, HistogramMetricFamily):
            ends = [*map(str, family.ends), "+Inf"]
            sums = itertools.accumulate(one.counts)
            metric.add_metric(labels, list(zip(ends, sums, strict=True)), one.value)
        elif isinstance(metric, CounterMetricFamily | GaugeMetricFamily):
            metric.add_metric(labels, one.value)
