"""How often somebody may try to log in: by account and by address, each process for itself."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable

from evp.clock import monotonic_s
from evp.errors import Refusal
from evp.server.limits import LOGIN_NAMES_MAX, LOGIN_TRIES_MAX, LOGIN_WINDOW_S


class Attempts:
    """The times of the latest tries, by name; of too many the one that was quiet longest goes."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._tries_s: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, name: str) -> float:
        """Return how long a name has to wait until its next try; 0 or less: not at all."""
        tries_s = self._tries_s.get(name)
        if tries_s is None or len(tries_s) < LOGIN_TRIES_MAX:
            return 0.0
        return tries_s[0] + LOGIN_WINDOW_S - self._clock_s()

    def note(self, name: str) -> None:
        """Note a try of a name."""
        if name not in self._tries_s and len(self._tries_s) >= LOGIN_NAMES_MAX:
            self._tries_s.popitem(last=False)
        self._tries_s.setdefault(name, deque(maxlen=LOGIN_TRIES_MAX)).append(self._clock_s())
        self._tries_s.move_to_end(name)


class LoginLimit:
    """Tries by account, whoever makes them, and by address, for whatever account.

    All tries count, good ones too, so that the answer tells nothing about a
    password; those that are refused here don't.
    """

    def __init__(self, clock_s: Callable[[], float] = monotonic_s) -> None:
        self._by_account = Attempts(clock_s)
        self._by_address = Attempts(clock_s)

    def take(self, account: str, address: str) -> None:
        """Count a try. Raises Refusal `too_many_logins` if there were too many in a minute."""
        wait_s = max(self._by_account.wait_s(account), self._by_address.wait_s(address))
        if wait_s > 0:
            detail = f"{LOGIN_TRIES_MAX} tries within {LOGIN_WINDOW_S} seconds are allowed"
            raise Refusal("too_many_logins", detail, retry_after_s=math.ceil(wait_s))
        self._by_account.note(account)
        self._by_address.note(address)
