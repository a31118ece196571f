"""Latencies, counted by HdrHistogram: three digits of each, from a microsecond to an hour."""

from __future__ import annotations

from hdrh.histogram import HdrHistogram
from msgspec import Struct

_US_MAX = 3_600_000_000
_DIGITS = 3


class Quantiles(Struct, frozen=True):
    """How long it took, in milliseconds."""

    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float


class Histogram:
    """Counts durations."""

    def __init__(self) -> None:
        self._counts = HdrHistogram(1, _US_MAX, _DIGITS)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._counts.get_total_count())

    def record_s(self, seconds: float) -> None:
        """Count one duration; less than a microsecond counts as one."""
        self._counts.record_value(min(max(1, int(seconds * 1e6)), _US_MAX))

    def encode(self) -> bytes:
        """Return it as bytes, for another process (HdrHistogram's V2 format)."""
        return bytes(self._counts.encode())

    def add(self, encoded: bytes) -> None:
        """Count what another one has counted."""
        self._counts.decode_and_add(encoded)

    def quantiles(self) -> Quantiles | None:
        """Return what to tell of it; None if there is nothing."""
        if not self.count:
            return None
        at = self._counts.get_value_at_percentile
        p50, p90, p95, p99, p999 = (at(percent) / 1000 for percent in (50, 90, 95, 99, 99.9))
        return Quantiles(p50, p90, p95, p99, p999, self._counts.get_max_value() / 1000)
