"""What a server is to its cluster: whether it fits the work, and what shows that two servers are of one cluster."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Final

from prefiq_db.config import ANY_HOST, READER, WRITER
from prefiq_db.errors import ErrorKind


@dataclass(frozen=True, slots=True)
class Role:
    """What a server says of itself.

    Attributes:
        ailment: why it doesn't fit the work; ``None`` if it does.
        state: a Galera node's state in Galera's own words; empty elsewhere.
        is_last_resort: it would do, if no other server is better: a Galera node that is not in step with the others.
        shares_writes: other servers may take writes as well; a Galera node.
        follows: it gets its data from another server, although it takes writes.
    """

    ailment: ErrorKind | None = None
    state: str = ""
    is_last_resort: bool = False
    shares_writes: bool = False
    follows: bool = False


WELL: Final = Role()

# --- MariaDB and MySQL ---------------------------------------------------------------------------

MYSQL_HEALTH: Final = "SELECT @@global.read_only"


def status_of(name: str) -> str:
    """Return the value of a status variable, of those that a query of ``global_status`` reads."""
    return f"MAX(IF(variable_name = '{name}', variable_value, NULL))"


def _variable(name: str) -> str:
    return f"(SELECT variable_value FROM information_schema.global_variables WHERE variable_name = '{name}')"


# A Galera node that has lost its cluster runs some statements and refuses the rest. We ask these tables and not
# @@wsrep_on, which a server built without Galera doesn't know; nor @@read_only, which is always 0 beside an aggregate.
# SLAVE_RUNNING is only about the connection without a name, and 'OFF' while the primary doesn't answer.
MARIADB_HEALTH: Final = (
    f"SELECT {_variable('READ_ONLY')}, {_variable('WSREP_ON')}, {status_of('WSREP_READY')}, "
    f"{_variable('WSREP_REJECT_QUERIES')}, {status_of('WSREP_LOCAL_STATE_COMMENT')}, "
    f"{status_of('WSREP_CLUSTER_STATUS')}, {status_of('SLAVES_RUNNING')} FROM information_schema.global_status "
    "WHERE variable_name IN ('WSREP_READY', 'WSREP_LOCAL_STATE_COMMENT', 'WSREP_CLUSTER_STATUS', 'SLAVES_RUNNING')"
)
HEALTH: Final = {"mysql": MYSQL_HEALTH, "mariadb": MARIADB_HEALTH}


def mysql_role(row: Any) -> Role:
    """Return the role of a server that answered one of the two queries above with *row*."""
    # MariaDB 12 answers with words.
    read_only = None if str(row[0]).upper() in ("0", "OFF") else ErrorKind.READ_ONLY
    if len(row) == 1:
        return Role(read_only)
    follows = str(row[6] or "0") != "0"
    if row[1] != "ON":
        return Role(read_only, follows=follows)
    if row[5] != "Primary":
        return Role(ErrorKind.NOT_READY, str(row[5] or "Disconnected"), shares_writes=True)
    state = "Drained" if row[3] != "NONE" else str(row[4])  # an administrator drains the node
    if row[2] != "ON" or state == "Drained":
        return Role(ErrorKind.NOT_READY, state, shares_writes=True)
    return Role(read_only, state, shares_writes=True)


def mysql_role_for(wanted: str, row: Any) -> Role:
    """Return the role like :func:`mysql_role`, its ailment judged by what is *wanted*: a writer, a reader or any."""
    role = mysql_role(row)
    if wanted == ANY_HOST:
        return WELL
    if wanted == READER:
        return WELL if role.ailment is ErrorKind.READ_ONLY else Role(ErrorKind.NOT_READY)
    if role.ailment is None and role.state not in ("", "Synced"):
        # A donor, or one that was taken out of step on purpose: it works, and lags behind.
        return Role(ErrorKind.NOT_READY, role.state, is_last_resort=True, shares_writes=True)
    return role


#: What shows that two hosts are one server, which has several names or stands twice in the list.
ONE_SERVER: Final = "one server"

#: A server's own number; the transactions that it has made or got, with the numbers of their servers; its place.
ORIGINS: Final = {
    "mariadb": "SELECT @@global.server_id, @@global.gtid_binlog_state, @@global.gtid_slave_pos, "
    "CONCAT_WS(' ', @@hostname, @@port, @@socket, @@datadir, @@pid_file)"
}


def mariadb_kinship(one: Any, other: Any) -> str | None:
    """Return in words what two servers share, by their answers to the query; ``None`` if nothing."""
    if one[0] == other[0]:
        return ONE_SERVER if one[3] == other[3] else None
    first, second = (_origins(row) for row in (one, other))
    if str(other[0]) in first or str(one[0]) in second:
        return f"servers {one[0]} and {other[0]}, of which one has transactions of the other"
    # Of two replicas of a third server, both promoted, neither has anything of the other.
    shared = sorted(first & second)
    return f"servers {one[0]} and {other[0]}, which both have transactions of server {shared[0]}" if shared else None


def _origins(row: Any) -> AbstractSet[str]:
    """Return the numbers of the servers whose transactions a server has: GTIDs are ``domain-server-sequence``."""
    return {server for text in row[1:3] for server in re.findall(r"\d+-(\d+)-\d+", str(text or ""))}


# --- PostgreSQL ----------------------------------------------------------------------------------

#: What a server reports by itself, at login and with the next reply after a change, from version 14 on.
READ_ONLY: Final = "default_transaction_read_only"

#: For who can't believe what is told at login: a pooler tells what its first session heard, also after a failover.
POSTGRESQL_ROLE: Final = "SELECT current_setting('transaction_read_only'), pg_is_in_recovery()"

#: libpq's words for what a server has to be; the answer that means so, and its place.
POSTGRESQL_ROLES: Final = {
    WRITER: (0, "off"),
    READER: (0, "on"),
    "primary": (1, False),
    "standby": (1, True),
}


def postgresql_role_for(wanted: str, row: Any) -> Role:
    """Return the role of a server that answered the query above with *row*, by what is *wanted*."""
    place, answer = POSTGRESQL_ROLES[wanted]
    if row[place] == answer:
        return WELL
    return Role(ErrorKind.READ_ONLY if wanted in (WRITER, "primary") else ErrorKind.NOT_READY)


#: A copy keeps the number of the cluster it was copied from; each promotion begins a new timeline. No two servers start
#: within the same microsecond.
POSTGRESQL_ORIGIN: Final = (
    "SELECT system_identifier::text, ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int,"
    " extract(epoch FROM pg_postmaster_start_time())::text FROM pg_control_system()"
)


def postgresql_kinship(one: Any, other: Any) -> str | None:
    """Return in words that two servers are of one cluster, by their answers to the query; else ``None``."""
    if one is None or other is None or one[0] != other[0]:
        return None
    return ONE_SERVER if one[2] == other[2] else f"timelines {one[1]} and {other[1]}"
