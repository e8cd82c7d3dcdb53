"""Commit tokens on MariaDB and MySQL: each row names the session and the server that wrote it."""

from __future__ import annotations

import math
from typing import Any, Final

from prefiq_db.dialects.token_sql import ABANDONED, TABLE, WORK, TokenDialect, first_word
from prefiq_db.translation.driver_reports import code_of

_DUPLICATE_KEY: Final = 1062
_SERVER: Final = "'@', @@hostname, ':', @@port"
_SESSION: Final = f"CONCAT(CONNECTION_ID(), {_SERVER})"


class MysqlTokens(TokenDialect):
    """Tokens on MariaDB and MySQL, where a query can read an uncommitted row, which proves who holds it."""

    #: SQLAlchemy sets it with the first connection
    is_mariadb: bool

    @property
    def token_rides_with_begin(self) -> bool:
        return bool(self.is_mariadb)

    def token_sql(self, token: str, written_as: str = WORK) -> str:
        return (
            f"INSERT INTO {TABLE} (token, written_as, session)"
            f" VALUES ('{token}', '{written_as}', CONVERT({_SESSION} USING ascii))"
        )

    def claim(self, dbapi_connection: Any, token: str, wait_seconds: float) -> str | None:
        # Lock waits have whole seconds, statement timeouts have fractions.
        lock_wait = f"SET SESSION innodb_lock_wait_timeout = {math.ceil(wait_seconds)}"
        limit = f", max_statement_time = {wait_seconds:.3f}" if self.is_mariadb else ""
        self.control(dbapi_connection, lock_wait + limit)
        try:
            self.control(dbapi_connection, self.token_sql(token, ABANDONED))
        except Exception as error:
            if code_of(error) != _DUPLICATE_KEY:
                raise
        else:
            return ABANDONED
        return first_word(self.ask(dbapi_connection, self.write_as_sql(token)))

    def end_holder(self, dbapi_connection: Any, token: str) -> bool:
        # READ UNCOMMITTED shows an uncommitted row as long as its transaction is open. A row from before the server's
        # start is about to be rolled back, and its session number may belong to another session by now.
        self.control(dbapi_connection, "SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
        schema = "information_schema" if self.is_mariadb else "performance_schema"
        uptime = f"SELECT variable_value FROM {schema}.global_status WHERE variable_name = 'UPTIME'"
        rows = self.ask(
            dbapi_connection,
            f"SELECT process.id FROM {TABLE} AS held JOIN information_schema.processlist AS process"
            f" ON held.session = CONVERT(CONCAT(process.id, {_SERVER}) USING ascii)"
            f" WHERE held.token = '{token}' AND held.written_as = '{WORK}'"
            " AND process.user = SUBSTRING_INDEX(CURRENT_USER(), '@', 1) AND process.id <> CONNECTION_ID()"
            # A session that waits for a replica has committed; ending that wait would show what a failover loses.
            " AND COALESCE(process.state, '') NOT LIKE '%semi-sync%'"
            f" AND held.created_at > utc_timestamp(6) - INTERVAL ({uptime}) SECOND",
        )
        # A row that READ COMMITTED shows as well isn't held any more: its session serves another caller by now, and the
        # claim waits for another lock.
        self.control(dbapi_connection, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        if rows and self.ask(dbapi_connection, self.write_as_sql(token)):
            return False
        for (number,) in rows:
            self.control(dbapi_connection, f"KILL CONNECTION {int(number):d}")
        return bool(rows)

    def prune_sql(self, age_seconds: float, limit: int) -> str:
        return (
            f"DELETE FROM {TABLE} WHERE created_at < utc_timestamp(6) - INTERVAL {age_seconds:.0f} SECOND"
            f" ORDER BY created_at LIMIT {limit:d}"
        )
