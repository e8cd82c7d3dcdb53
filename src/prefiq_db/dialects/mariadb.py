"""MariaDB, and MySQL as its alias, through PyMySQL and asyncmy."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Any, ClassVar, Final

import sqlalchemy as sa
from sqlalchemy.dialects.mysql.asyncmy import MySQLDialect_asyncmy
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.sql.sqltypes import _Binary

from prefiq_db.config import WRITER
from prefiq_db.dialects.awaiting_mariadb import AwaitingMariadb
from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.dialects.binary import Bytes
from prefiq_db.dialects.bulk_mariadb import AsyncmyBulk, MariadbBulk, PyMySQLBulk
from prefiq_db.dialects.bursts_mariadb import AsyncMariadbBursts, MariadbBursts
from prefiq_db.dialects.characteristics import characteristics
from prefiq_db.dialects.enums import QuietMysqlEnum
from prefiq_db.dialects.mariadb_compiler import MariadbCompiler
from prefiq_db.dialects.mysql_streams import MysqlStreams
from prefiq_db.dialects.node_roles import MARIADB_HEALTH, MYSQL_HEALTH, mysql_role, mysql_role_for
from prefiq_db.dialects.session import ENDED, GONE, HALF, SessionState, TransactionState
from prefiq_db.dialects.token_sql_mariadb import MysqlTokens
from prefiq_db.dialects.travelling_mariadb import AsyncMariadbTravelling, MariadbTravelling
from prefiq_db.dialects.upsert_sql import MariadbUpsert
from prefiq_db.dialects.values import MARIADB
from prefiq_db.drivers.readable import poller_of
from prefiq_db.drivers.statuses import AT_REST_OF, AUTOCOMMIT, IN_TRANSACTION
from prefiq_db.errors import ErrorKind, StatementRefusedError
from prefiq_db.memory import Memory
from prefiq_db.translation.driver_reports import code_of

_GUARD: Final = "prefiq_guard"
NO_SUCH_SAVEPOINT: Final = 1305


class Kind(enum.Enum):
    """What a statement may do to the open transaction."""

    #: reads or writes rows: never begins or ends a transaction, not even through a trigger or function
    PLAIN = "plain"
    #: runs statements that its text doesn't show, or switches autocommit
    ROUTINE = "routine"
    #: changes the schema: commits the open transaction, and needs none
    DEFINITION = "definition"
    #: LOCK TABLES
    LOCK = "lock"
    #: any other; some of these commit the open transaction, too
    OTHER = "other"


_FIRST_WORD: Final = re.compile(r"(?:[\s(;]+|/\*(?!M?!).*?\*/|(?:--\s|\#)[^\n]*(?:\n|\Z))*([a-z]*)", re.I | re.S)
_PLAIN: Final = frozenset(
    ["select", "insert", "update", "delete", "replace", "with", "values", "table", "show", "explain", "desc", "do"]
)
_ROUTINE: Final = frozenset(
    ["call", "begin", "execute", "set", "declare", "if", "case", "loop", "while", "repeat", "for"]
)


_KINDS: Final = {
    **dict.fromkeys(_PLAIN, Kind.PLAIN),
    **dict.fromkeys(_ROUTINE, Kind.ROUTINE),
    **dict.fromkeys(("create", "alter", "drop", "rename", "truncate"), Kind.DEFINITION),
    "lock": Kind.LOCK,
    # Text that we can't read, such as an executable comment, may be anything.
    "": Kind.ROUTINE,
}


_kinds: Final[Memory[Kind]] = Memory(2048)


def kind_of(statement: str) -> Kind:
    """Return what *statement* may do to the open transaction, judged by its first word."""
    known = _kinds.kept.get(statement)
    return _kinds.keep(statement, _kind_of(statement), statement) if known is None else known


def _kind_of(statement: str) -> Kind:
    match = _FIRST_WORD.match(statement)
    return _KINDS.get(match.group(1).lower() if match else "", Kind.OTHER)


#: How each session reads and stores values.
SESSION: Final = (
    "sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,NO_ZERO_IN_DATE,NO_ENGINE_SUBSTITUTION',"
    " time_zone = '+00:00'"
)


def is_session_sql(session: int, port: int | None) -> str:
    """Return a query for whether *session* belongs to the same user, and its client connects from *port*.

    *port* is ``None`` for a Unix socket. A session that waits for a replica doesn't count: it has committed, and lacks
    only the acknowledgement.
    """
    client = "host = 'localhost'" if port is None else f"SUBSTRING_INDEX(host, ':', -1) = '{port:d}'"
    return (
        f"SELECT 1 FROM information_schema.processlist WHERE id = {session:d} AND {client}"
        " AND user = SUBSTRING_INDEX(USER(), '@', 1) AND COALESCE(state, '') NOT LIKE '%semi-sync%'"
    )


class _MySQLFamily(MysqlStreams, MariadbBulk, MysqlTokens, PrefiqDialect):
    connection_characteristics: Any = characteristics()
    values = MARIADB
    upserts = MariadbUpsert()
    statement_compiler: Any = MariadbCompiler
    colspecs: ClassVar[Any] = {**MariaDBDialect.colspecs, _Binary: Bytes, sa.Enum: QuietMysqlEnum}
    login_arguments = frozenset({"user", "password", "database"})
    # A deadlock or a snapshot conflict rolls the whole transaction back; later statements would then commit one by
    # one. A lock timeout undoes only its statement.
    after_error: ClassVar[Any] = {
        ErrorKind.DEADLOCK: GONE,
        ErrorKind.SERIALIZATION: GONE,
        ErrorKind.LOCK_TIMEOUT: HALF,
    }

    def _status(self, dbapi_connection: Any) -> int:
        """Return the status flags of the server's last reply; an error reply has none."""
        raise NotImplementedError

    def in_transaction(self, dbapi_connection: Any) -> bool:
        return bool(self._status(dbapi_connection) & IN_TRANSACTION)

    def _extract_error_code(self, exception: Any) -> Any:
        # SQLAlchemy asks while it reflects, also for our errors of both trees, which no driver raised.
        return None if exception is None else super()._extract_error_code(exception)  # type: ignore[misc]  # SQLAlchemy's

    driver_habits = ("cursorclass", "_cursor_cls", "db", "_db", "charset", "_charset")

    def effect_of(self, error: Exception, proxied: Any) -> str | None:
        # The server refuses a statement that is too long and closes the connection, which rolls the transaction back.
        return GONE if self.socket_of(proxied.dbapi_connection) == -1 else super().effect_of(error, proxied)

    def is_at_rest(self, dbapi_connection: Any) -> bool:
        return self._status(dbapi_connection) & AT_REST_OF == AUTOCOMMIT

    def set_driver_autocommit(self, dbapi_connection: Any, value: bool) -> None:
        dbapi_connection.autocommit(value)

    def clock_of(self, dbapi_connection: Any) -> Any:
        return dbapi_connection

    def is_plain(self, compiled: Any) -> bool:
        return kind_of(compiled.string) is Kind.PLAIN

    def commits_by_itself(self, statement: str) -> bool:
        return kind_of(statement) is Kind.DEFINITION

    def _send(self, send: Any, cursor: Any, statement: Any, parameters: Any, context: Any, batch_size: int) -> None:
        if context is not None:
            self.check_not_streaming(context._dbapi_connection.dbapi_connection)
        if context is not None and kind_of(statement) is not Kind.PLAIN and getattr(context, "carrier", None) is None:
            send = self._send_with_care(send)
            if kind_of(statement) is Kind.LOCK:
                self._check_lock(self.session_of(context.root_connection._dbapi_connection))
        super()._send(send, cursor, statement, parameters, context, batch_size)

    def _check_lock(self, state: SessionState) -> None:
        """Refuse LOCK TABLES where the next BEGIN would release the locks; elsewhere don't reuse the connection."""
        if state.transaction.managed:  # refused like any statement that commits
            return
        if state.transaction.began:
            raise StatementRefusedError(
                "LOCK TABLES ends the transaction, and the next BEGIN would release its locks; take them on "
                "db.engine.raw_connection(), or with isolation_level='AUTOCOMMIT'"
            )
        state.checkout.tainted = True

    def _send_with_care(self, send: Callable[..., None]) -> Callable[..., None]:
        """Return *send* for a statement that may end the open transaction, or begin one, and fail after that.

        An error reply doesn't say whether the transaction is open. A savepoint does: every COMMIT and ROLLBACK removes
        it. Rolling back to it also undoes what a procedure did before it failed, as on the other databases.
        """

        def send_with_care(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            proxied = context.root_connection._dbapi_connection
            state, raw = self.session_of(proxied), proxied.dbapi_connection
            # Any statement in between would lose the unread rows of a streaming cursor.
            guarded = state.transaction.began and self.in_transaction(raw) and not context._is_server_side
            if guarded:
                self.control(raw, f"SAVEPOINT {_GUARD}")
            try:
                send(cursor, statement, parameters, context)
                cursor.other_results = self._other_results(cursor)
            except Exception as error:
                if not guarded and kind_of(statement) is Kind.ROUTINE:
                    # We can't tell what it left open.
                    state.checkout.tainted = True
                elif guarded and self.effect_of(error, proxied) != GONE:
                    self._release_guard(state, raw, undo=True)
                raise
            if guarded and self.in_transaction(raw):
                self._release_guard(state, raw)

        return send_with_care

    def _release_guard(self, state: SessionState, dbapi_connection: Any, *, undo: bool = False) -> None:
        """Release the savepoint; if it no longer exists, the statement has ended the transaction."""
        try:
            if undo:
                self.control(dbapi_connection, f"ROLLBACK TO SAVEPOINT {_GUARD}")
            self.control(dbapi_connection, f"RELEASE SAVEPOINT {_GUARD}")
        except Exception as error:
            if code_of(error) != NO_SUCH_SAVEPOINT:
                raise
        else:
            return
        self.control(dbapi_connection, "DO 0")  # its reply has the flags
        if state.transaction.managed:
            state.transaction.aborted = ENDED

    def _other_results(self, cursor: Any) -> list[Any]:
        raise NotImplementedError

    def begin_sql(self, transaction: TransactionState) -> str:
        message = ["START TRANSACTION READ ONLY" if transaction.read_only else "START TRANSACTION"]
        if transaction.isolation is not None:
            # The level holds for the next transaction only.
            message.insert(0, f"SET TRANSACTION ISOLATION LEVEL {transaction.isolation}")
        if transaction.token is not None and self.token_rides_with_begin:
            message.append(self.token_sql(transaction.token))
        # One round trip for the whole message.
        return message[0] if len(message) == 1 else f"BEGIN NOT ATOMIC {'; '.join(message)}; END"

    def do_begin(self, dbapi_connection: Any) -> None:
        state = self.session_of(dbapi_connection)
        if state.transaction.isolation is not None and not self.is_mariadb and not state.checkout.one_shot:
            self._begin_mysql(dbapi_connection, state.transaction)
        else:
            super().do_begin(dbapi_connection)

    def _begin_mysql(self, proxied: Any, transaction: TransactionState) -> None:
        """Begin in two messages: MySQL has no anonymous blocks."""
        level, transaction.isolation = transaction.isolation, None
        try:
            self.control(proxied.dbapi_connection, f"SET TRANSACTION ISOLATION LEVEL {level}")
            super().do_begin(proxied)
        finally:
            transaction.isolation = level

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

    def unlimited_sql(self) -> str:
        return "max_statement_time = 0" if self.is_mariadb else "max_execution_time = 0"

    health_sql = MYSQL_HEALTH

    def ailment_of(self, row: Any) -> ErrorKind | None:
        return mysql_role(row).ailment

    def read_state(self, row: Any) -> str:
        return mysql_role(row).state

    def fits(self, dbapi_connection: Any) -> bool:
        return mysql_role_for(WRITER, self.ask(dbapi_connection, self.health_sql)[0]).ailment is None


class _PyMySQL(PyMySQLBulk, _MySQLFamily):
    # SQLAlchemy finds this out by importing the driver; our driver supports them.
    supports_server_side_cursors: Any = True

    @property
    def _sscursor(self) -> Any:
        from prefiq_db.drivers.pymysql import HurriedSSCursor

        return HurriedSSCursor

    def _status(self, dbapi_connection: Any) -> int:
        return int(dbapi_connection.server_status)

    def is_at_rest(self, dbapi_connection: Any) -> bool:
        return bool(dbapi_connection.server_status & AT_REST_OF == AUTOCOMMIT)

    def execute_alone(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        cursor.execute(statement, parameters)

    def columns_of(self, cursor: Any) -> Any:
        return cursor.description

    def is_ready(self, dbapi_connection: Any, state: SessionState, now: float) -> bool:
        sock, seconds, poll = dbapi_connection._sock, self.limits.statement_timeout_seconds, state.poll
        if sock is None:
            return False
        if poll is None:
            state.poll = poll = poller_of(sock.fileno())
        return (
            not dbapi_connection.is_unheard
            and dbapi_connection.server_status & AT_REST_OF == AUTOCOMMIT
            and state.session_timeout == seconds == state.patience_seconds
            and not dbapi_connection.is_streaming
            and not poll(0)
        )

    def control(self, dbapi_connection: Any, sql: str) -> str | None:
        if sql != "COMMIT":
            return super().control(dbapi_connection, sql)
        self.check_not_streaming(dbapi_connection)
        dbapi_connection.query(sql)  # as a cursor sends it
        return None

    def is_ready_inside(self, dbapi_connection: Any, state: SessionState, now: float) -> bool:
        transaction, seconds = state.transaction, self.limits.statement_timeout_seconds
        return (
            transaction.owes_begin is not transaction.began
            and dbapi_connection._sock is not None
            and not dbapi_connection.is_unheard
            and bool(dbapi_connection.server_status & IN_TRANSACTION) is transaction.began
            and state.session_timeout == seconds == state.patience_seconds
            and not dbapi_connection.is_streaming
        )

    def _other_results(self, cursor: Any) -> list[Any]:
        from prefiq_db.drivers.pymysql import read_other_results

        # A server-side cursor reads rows on demand.
        return [] if isinstance(cursor, self._sscursor) else read_other_results(cursor)

    def has_unread_rows(self, dbapi_connection: Any) -> bool:
        result = dbapi_connection._result
        return result is not None and bool(result.unbuffered_active)

    def socket_of(self, dbapi_connection: Any) -> int | None:
        sock = dbapi_connection._sock
        return -1 if sock is None else int(sock.fileno())


class _Asyncmy(AwaitingMariadb, AsyncmyBulk, _MySQLFamily):
    @classmethod
    def import_dbapi(cls) -> Any:
        import asyncmy

        from prefiq_db.drivers.asyncmy import Dbapi

        return Dbapi(asyncmy)

    def _status(self, dbapi_connection: Any) -> int:
        return int(dbapi_connection._connection.server_status)

    def _other_results(self, cursor: Any) -> list[Any]:
        # A server-side cursor reads rows on demand.
        return [] if cursor.server_side else cursor.read_other_results()

    def clock_of(self, dbapi_connection: Any) -> Any:
        return dbapi_connection._execute_mutex

    def has_unread_rows(self, dbapi_connection: Any) -> bool:
        result = dbapi_connection._connection._result
        return result is not None and bool(result.unbuffered_active)

    def socket_of(self, dbapi_connection: Any) -> int | None:
        connection = dbapi_connection._connection
        # The event loop may already have read the end of the stream; then the socket itself looks idle.
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


class PrefiqMariadb(MariadbBursts, MariadbTravelling, _PyMySQL, MariaDBDialect, MySQLDialect_pymysql):
    label = "mariadb"
    supports_statement_cache = True
    health_sql = MARIADB_HEALTH


class PrefiqMariadbAsync(AsyncMariadbBursts, AsyncMariadbTravelling, _Asyncmy, MariaDBDialect, MySQLDialect_asyncmy):
    label = "mariadb"
    supports_statement_cache = True
    health_sql = MARIADB_HEALTH
