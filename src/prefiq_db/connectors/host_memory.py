"""What a connector remembers of its hosts: the one that it stays with, and those that failed just now."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Final

from prefiq_db.config import Host

# A host that gave no connection is tried last for so long: a silent one costs each attempt its share of the time.
_AVOID_SECONDS: Final = 10.0


class HostMemory:
    """The hosts of one connector.

    Threads and tasks share it without a lock: each entry is one assignment, and the worst that a race does is to ask
    the other hosts once more.

    Args:
        hosts: in the order of the settings.
        spreads: each new connection begins with the next host, instead of staying with one.
    """

    def __init__(
        self, hosts: tuple[Host, ...], *, spreads: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.hosts = hosts
        self.spreads = spreads
        self.chosen: Host | None = None
        #: replaced with each loss or refusal, so that a search knows whether one came while it went on
        self.doubts = object()
        self._confirmed: object = None
        self._failed_at: dict[Host, float] = {}
        self._turn = itertools.count(random.randrange(len(hosts)) if spreads else 0)
        self._clock = clock

    def order(self) -> list[Host]:
        """Return the hosts in the order to try them now."""
        now = self._clock()
        first = next(self._turn) % len(self.hosts) if self.spreads else 0
        turned = [*self.hosts[first:], *self.hosts[:first]]
        return sorted(turned, key=lambda host: (self._is_avoided(host, now), host != self.chosen and not self.spreads))

    def _is_avoided(self, host: Host, now: float) -> bool:
        failed_at = self._failed_at.get(host)
        return failed_at is not None and now - failed_at < _AVOID_SECONDS

    def note_failure(self, host: Host) -> None:
        self._failed_at[host] = self._clock()

    def choose(self, host: Host, doubts: object) -> bool:
        """Stay with *host*; return whether that is another one than before. *doubts*: as the search began with."""
        has_moved = self.chosen not in (None, host) and not self.spreads
        self.chosen = host
        self._confirmed = doubts
        self._failed_at.pop(host, None)
        return has_moved

    def doubt(self) -> None:
        """Ask the other hosts again with the next new connection: something happened to the one that was chosen."""
        self.doubts = object()

    def trusts(self, host: Host) -> bool:
        """Return whether *host* was chosen, and nothing has happened to it since."""
        return self._confirmed is self.doubts and host == self.chosen
