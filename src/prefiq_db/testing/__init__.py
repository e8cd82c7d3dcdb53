"""Help for tests: private servers, and proxies that count or break network traffic.

Importing it needs no driver; starting a server needs the one of its database.
"""

from __future__ import annotations

from prefiq_db.testing.galera_cluster import GaleraCluster
from prefiq_db.testing.haproxy import HAProxy
from prefiq_db.testing.injection import Injection
from prefiq_db.testing.mariadb_cluster import MariaDbCluster
from prefiq_db.testing.patroni_cluster import PatroniCluster
from prefiq_db.testing.pgbouncer import PgBouncer
from prefiq_db.testing.postgresql_cluster import PostgresCluster
from prefiq_db.testing.postgresql_pair import PostgresPair
from prefiq_db.testing.servers import DatabaseServer, MariaDbServer, PostgresServer, ServerUnavailableError
from prefiq_db.testing.skipped_waits import no_waits
from prefiq_db.testing.wire import WireCounter

__all__ = [
    "DatabaseServer",
    "GaleraCluster",
    "HAProxy",
    "Injection",
    "MariaDbCluster",
    "MariaDbServer",
    "PatroniCluster",
    "PgBouncer",
    "PostgresCluster",
    "PostgresPair",
    "PostgresServer",
    "ServerUnavailableError",
    "WireCounter",
    "no_waits",
]
