"""A token bucket: how fast the holder of a key may send."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

from evp.clock import monotonic_s
from evp.errors import Refusal


class Bucket:
    """Holds at most one second's tokens. What is taken is paid for afterwards.

    A request passes while there is a token, whatever it takes: how many events it has
    is known only once it was read, and a batch larger than the bucket must pass as
    well. So over any time no more than the rate passes, and at most one second's
    tokens and one request beyond it.
    """

    def __init__(self, rate_per_s: int, clock: Callable[[], float] = monotonic_s) -> None:
        self._rate_per_s = rate_per_s
        self._clock = clock
        self._tokens = float(rate_per_s)
        self._at_s = clock()

    def wait_s(self) -> float:
        """Return how long it takes until a request may pass; 0 if one may now."""
        self._fill()
        return max(0.0, (1.0 - self._tokens) / self._rate_per_s)

    def spend(self, count: int) -> None:
        """Take tokens for what has passed: at least one, also for a request that was refused."""
        self._fill()
        self._tokens -= max(1, count)

    def refusal(self) -> Refusal | None:
        """Return why no request may pass now; None if one may."""
        wait_s = self.wait_s()
        if wait_s <= 0:
            return None
        detail = f"this key may send {self._rate_per_s:,} events a second here"
        return Refusal("rate_limited", detail, retry_after_s=ceil(wait_s))

    def _fill(self) -> None:
        now_s = self._clock()
        gained = (now_s - self._at_s) * self._rate_per_s
        self._tokens = min(float(self._rate_per_s), self._tokens + gained)
        self._at_s = now_s
