"""What migrations need to know of each kind of database, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prefiq_db.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class SessionLock:
    """The SQL of a lock that belongs to a session; its name contains the database's name.

    Attributes:
        take: tries to take it, without waiting; returns true or 1.
        take_for_transaction: the same, until the open transaction ends; ``""`` where there is no such lock.
        release: releases it.
        holder: the holder, for messages; no row if the lock is free.
    """

    take: str
    take_for_transaction: str
    release: str
    holder: str


@dataclass(frozen=True, slots=True)
class Traits:
    """One kind of database.

    Attributes:
        title: its name in messages.
        ddl_commits: each DDL statement commits the open transaction, so a revision can be half applied.
        left_behind: the SQL that finds what a failed DDL statement left outside a transaction; ``""`` where it leaves
            nothing. Returns a name, the name of its table, and the statement that removes it.
        begin: the statement that begins a transaction.
        nothing: a statement that does nothing, sent in place of one that is skipped.
        alters_by_rebuild: its ALTER TABLE is so limited that tables are rebuilt, with foreign keys switched off.
        widens_texts_in_place: it lengthens a VARCHAR without rewriting rows.
        session_lock: how deployers take turns; ``None`` for a file, which has a lock file beside it.
    """

    title: str
    ddl_commits: bool
    left_behind: str
    begin: str
    nothing: str
    session_lock: SessionLock | None
    alters_by_rebuild: bool = False
    widens_texts_in_place: bool = False


# A 64-bit key; PostgreSQL itself limits the lock to this database.
_PG_KEY: Final = "hashtextextended('prefiq_db.migrate:' || current_database(), 0)"

# Lock names are shared by the whole server, and MySQL allows no more than 64 characters.
_MARIADB_NAME: Final = "concat('prefiq_db.migrate:', if(char_length(database()) <= 40, database(), sha1(database())))"

POSTGRESQL: Final = Traits(
    title="PostgreSQL",
    ddl_commits=False,
    left_behind="""
        SELECT i.relname, t.relname,
            'DROP INDEX CONCURRENTLY ' || quote_ident(n.nspname) || '.' || quote_ident(i.relname)
        FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
            JOIN pg_namespace n ON n.oid = i.relnamespace
        WHERE NOT x.indisvalid AND t.relkind <> 'p' ORDER BY 3
    """,
    begin="BEGIN",
    nothing="",
    session_lock=SessionLock(
        take=f"SELECT pg_try_advisory_lock({_PG_KEY})",
        take_for_transaction=f"SELECT pg_try_advisory_xact_lock({_PG_KEY})",
        release=f"SELECT pg_advisory_unlock({_PG_KEY})",
        holder=f"""
            SELECT 'pid ' || a.pid || ', application ' || coalesce(nullif(a.application_name, ''), '-')
                || ', connected since '
                || to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'
            FROM pg_locks l JOIN pg_stat_activity a USING (pid)
            WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND ((l.classid::bigint << 32) | l.objid::bigint) = {_PG_KEY}
        """,
    ),
    widens_texts_in_place=True,
)

_MARIADB_LOCK: Final = SessionLock(
    take=f"SELECT get_lock({_MARIADB_NAME}, 0)",
    take_for_transaction="",
    release=f"SELECT release_lock({_MARIADB_NAME})",
    # Without the PROCESS privilege the list has only the user's own sessions, but the number is always there.
    holder=f"""
        SELECT concat('connection ', used.id, coalesce(concat(', user ', p.user, ' from ', p.host), ''))
        FROM (SELECT is_used_lock({_MARIADB_NAME}) AS id) used
            LEFT JOIN information_schema.processlist p ON p.id = used.id
        WHERE used.id IS NOT NULL
    """,
)

MARIADB: Final = Traits("MariaDB", True, "", "START TRANSACTION", "DO 0", _MARIADB_LOCK)
MYSQL: Final = Traits("MySQL", True, "", "START TRANSACTION", "DO 0", _MARIADB_LOCK)
SQLITE: Final = Traits("SQLite", False, "", "BEGIN IMMEDIATE", "", None, alters_by_rebuild=True)

_TRAITS: Final[Mapping[str, Traits]] = {
    "postgresql": POSTGRESQL,
    "mariadb": MARIADB,
    "mysql": MYSQL,
    "sqlite": SQLITE,
}


def traits_of(dialect_name: str) -> Traits:
    """Return the traits of the SQLAlchemy dialect with that name.

    Raises:
        UnsupportedError: for a database that prefiq_db doesn't support.
    """
    if dialect_name in _TRAITS:
        return _TRAITS[dialect_name]
    raise UnsupportedError(f"migrations: expected one of {', '.join(_TRAITS)}; {dialect_name} is not supported")
