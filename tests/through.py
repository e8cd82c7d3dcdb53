"""The tests of the twins through a pooler: ``PREFIQ_THROUGH=pgbouncer pytest tests/twins -m postgresql``.

The backend's URL then leads through a real pgbouncer in transaction mode to a server that isn't in UTC, and each
database on it has ``pgbouncer`` on. What can't work there is skipped by name, with the reason: see :data:`UNABLE`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from prefiq_db import DatabaseSettings
from prefiq_db.testing import DatabaseServer, PgBouncer
from tests.clusters import find

IS_ON: Final = os.environ.get("PREFIQ_THROUGH") == "pgbouncer"
ZONE: Final = "Asia/Kathmandu"  # 5:45 before UTC: nothing that is off by hours goes unseen

#: By the beginning of the test's id: why it can't pass through a pooler.
UNABLE: Final[dict[str, str]] = {}


def pooler(server: DatabaseServer) -> Iterator[PgBouncer]:
    """Run pgbouncer in front of a server, whose time zone it changes."""
    settings = {"max_db_connections": "0"}
    with find("pgbouncer", PgBouncer, server=server, pool_size=20, settings=settings) as made:
        server.execute(f"alter system set timezone = '{ZONE}'")
        server.execute("select pg_reload_conf()")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DatabaseSettings, "__init__", _initialised(made.port))
            yield made


def _initialised(port: int) -> Callable[..., None]:
    """Return what makes settings with ``pgbouncer`` on, if their URL leads to the pooler and nothing else is said."""
    original = DatabaseSettings.__init__

    def initialise(self: DatabaseSettings, **given: Any) -> None:
        needed = {"pgbouncer": True} if f":{port}/" in str(given.get("url")) else {}
        original(self, **{**needed, **given})

    return initialise


def skip_unable(items: list[pytest.Item]) -> None:
    for item in items:
        reason = next((why for name, why in UNABLE.items() if item.nodeid.startswith(name)), None)
        if reason is not None and item.get_closest_marker("postgresql"):
            item.add_marker(pytest.mark.skip(reason=f"not through a transaction pooler: {reason}"))
