"""Notice that the server behind a pooled connection is no longer the primary.

What is known without a round trip, and when a server is asked: docs/decisions/0160-how-a-demoted-primary-is-noticed.md.
"""

from __future__ import annotations

import time
from typing import Any

from prefiq_db.dialects.engine_parts import ConfiguredDialect


class StayingDialect(ConfiguredDialect):
    """Mixed into our dialects: staying with the primary among several hosts."""

    #: whether there are several hosts, of which the pool wants one that takes writes
    follows_primary = False
    #: whether there are several hosts, of which one has to be the primary
    seeks_primary = False
    #: whether a server has to be asked for its role, because its replies don't say it
    asks_role = True

    def says_demoted(self, dbapi_connection: Any) -> bool:
        """Return whether the server's replies so far say that it takes no writes any more; nothing is sent."""
        return False

    def fits(self, dbapi_connection: Any) -> bool:
        """Ask the server whether it still is the one to work with."""
        return True

    def doubt_host(self, is_no_news: bool) -> None:
        """Ask all hosts again with the next new connection, unless one is replaced for its age, or with its host."""
        connector: Any = self.connector
        if self.seeks_primary and not is_no_news:
            connector.doubt()

    def leave_host(self, pool: Any) -> None:
        """Let the next new connection look for the primary, and replace *pool*'s older ones before their next use."""
        connector: Any = self.connector
        connector.doubt()
        if not connector.memory.spreads:
            pool._invalidate_time = time.time()
