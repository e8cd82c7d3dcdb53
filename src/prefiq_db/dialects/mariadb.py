"""MariaDB, and MySQL as its alias, through PyMySQL and asyncmy."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from typing import Any, ClassVar, Final

from sqlalchemy.dialects.mysql.asyncmy import MySQLDialect_asyncmy
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql

from prefiq_db.config import ANY_HOST, READER
from prefiq_db.dialects.base import GONE, HALF, PrefiqDialect, SessionState, characteristics
from prefiq_db.dialects.mariadb_tokens import MysqlTokens
from prefiq_db.dialects.read_only import ReadOnlySessions
from prefiq_db.errors import ErrorKind

#: What each session is told of how to read and keep values.
SESSION: Final = (
    "sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION',"
    " time_zone = '+00:00'"
)

MYSQL_HEALTH: Final = "SELECT @@global.read_only"
# A Galera node that has lost its cluster lets some statements through and refuses the rest. By these tables and not
# by @@wsrep_on, which a server built without Galera doesn't know.
MARIADB_HEALTH: Final = (
    "SELECT @@global.read_only, "
    "(SELECT variable_value FROM information_schema.global_variables WHERE variable_name = 'WSREP_ON'), "
    "(SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'WSREP_READY'), "
    "(SELECT variable_value FROM information_schema.global_variables WHERE variable_name = 'WSREP_REJECT_QUERIES')"
)


def ailment_of(row: Any) -> ErrorKind | None:
    """Return why the server that answered one of the two above with *row* takes no writes; ``None`` when it does."""
    if len(row) > 1 and row[1] == "ON" and row[2] != "ON":
        return ErrorKind.NOT_READY
    if len(row) > 3 and row[1] == "ON" and row[3] != "NONE":  # an administrator drains the node
        return ErrorKind.NOT_READY
    # MariaDB 12 answers with words.
    return None if str(row[0]).upper() in ("0", "OFF") else ErrorKind.READ_ONLY


def misfit(wanted: str, row: Any) -> ErrorKind | None:
    """Return what speaks against a server that answered with *row*, for who *wanted* a writer, a reader or any."""
    ailment = ailment_of(row)
    if wanted == ANY_HOST:
        return None
    if wanted == READER:
        return None if ailment is ErrorKind.READ_ONLY else ErrorKind.NOT_READY
    return ailment


def _utc(value: dt.datetime) -> dt.datetime:
    """Return an aware time as naive UTC, which is what the session's time zone makes of it; leave a naive one."""
    return value if value.tzinfo is None else value.astimezone(dt.UTC).replace(tzinfo=None)


class _MySQLFamily(MysqlTokens, ReadOnlySessions, PrefiqDialect):
    ddl_commits = True
    connection_characteristics: Any = characteristics()
    adapters: ClassVar[Any] = {dt.datetime: _utc, uuid.UUID: str, dict: json.dumps}
    # A deadlock or a snapshot conflict rolls the whole transaction back; what came next would be committed statement
    # by statement. A lock timeout undoes only its statement.
    after_error: ClassVar[Any] = {
        ErrorKind.DEADLOCK: GONE,
        ErrorKind.SERIALIZATION: GONE,
        ErrorKind.LOCK_TIMEOUT: HALF,
    }

    def begin_sql(self, state: SessionState) -> str:
        message = ["START TRANSACTION READ ONLY" if state.read_only else "START TRANSACTION"]
        if state.isolation is not None:
            # It holds for the next transaction only.
            message.insert(0, f"SET TRANSACTION ISOLATION LEVEL {state.isolation}")
        if state.token is not None and self.token_rides_with_begin:
            message.append(self.token_sql(state.token))
        # One round trip for all of it.
        return message[0] if len(message) == 1 else f"BEGIN NOT ATOMIC {'; '.join(message)}; END"

    def do_begin(self, dbapi_connection: Any) -> None:
        state = self.session_of(dbapi_connection)
        if state.isolation is not None and not self.is_mariadb and not state.one_shot:
            self._begin_mysql(dbapi_connection, state)
        else:
            super().do_begin(dbapi_connection)

    def _begin_mysql(self, proxied: Any, state: SessionState) -> None:
        """Begin in two messages: MySQL has no anonymous blocks."""
        level, state.isolation = state.isolation, None
        try:
            self.control(proxied.dbapi_connection, f"SET TRANSACTION ISOLATION LEVEL {level}")
            super().do_begin(proxied)
        finally:
            state.isolation = level

    def set_statement_timeout(self, proxied: Any, seconds: float) -> None:
        state = self.session_of(proxied)
        self.bound_wait(state, proxied.dbapi_connection, seconds)
        if state.session_timeout == seconds:
            return
        if self.is_mariadb:
            self.control(proxied.dbapi_connection, f"SET SESSION max_statement_time = {seconds:.6f}")
        else:
            self.control(proxied.dbapi_connection, f"SET SESSION max_execution_time = {max(1, round(seconds * 1000))}")
        state.session_timeout = seconds

    health_sql = MYSQL_HEALTH

    def ailment_of(self, row: Any) -> ErrorKind | None:
        return ailment_of(row)


class _PyMySQL(_MySQLFamily):
    # SQLAlchemy finds out by importing the driver; this one has them.
    supports_server_side_cursors: Any = True

    @property
    def _sscursor(self) -> Any:
        from prefiq_db.drivers.pymysql import HurriedSSCursor

        return HurriedSSCursor

    def set_patience(self, dbapi_connection: Any, seconds: float) -> None:
        dbapi_connection.patience_seconds = seconds

    def socket_of(self, dbapi_connection: Any) -> int | None:
        sock = dbapi_connection._sock
        return -1 if sock is None else int(sock.fileno())


class _Asyncmy(_MySQLFamily):
    @classmethod
    def import_dbapi(cls) -> Any:
        import asyncmy

        from prefiq_db.drivers.asyncmy import Dbapi

        return Dbapi(asyncmy)

    def set_patience(self, dbapi_connection: Any, seconds: float) -> None:
        dbapi_connection._execute_mutex.patience_seconds = seconds

    def socket_of(self, dbapi_connection: Any) -> int | None:
        connection = dbapi_connection._connection
        # The event loop may have read the end of the stream already; then the socket itself looks idle.
        if connection._stream_broken:
            return -1
        sock = connection._transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())


class PrefiqMysql(_PyMySQL, MySQLDialect_pymysql):
    label = "mysql"
    supports_statement_cache = True


class PrefiqMysqlAsync(_Asyncmy, MySQLDialect_asyncmy):
    label = "mysql"
    supports_statement_cache = True


class PrefiqMariadb(_PyMySQL, MariaDBDialect, MySQLDialect_pymysql):
    label = "mariadb"
    supports_statement_cache = True
    health_sql = MARIADB_HEALTH


class PrefiqMariadbAsync(_Asyncmy, MariaDBDialect, MySQLDialect_asyncmy):
    label = "mariadb"
    supports_statement_cache = True
    health_sql = MARIADB_HEALTH
