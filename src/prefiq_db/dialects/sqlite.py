"""SQLite through sqlite3 and aiosqlite."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from prefiq_db.bridge import await_, can_await
from prefiq_db.deadline import Deadline
from prefiq_db.dialects.awaiting_sqlite import AwaitingSqlite
from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.dialects.bulk_sqlite import SqliteBulk
from prefiq_db.dialects.bursts_sqlite import AsyncSqliteBursts, ContextOfBursts
from prefiq_db.dialects.characteristics import characteristics
from prefiq_db.dialects.session import GONE, SessionState, TransactionState
from prefiq_db.dialects.sqlite_connection import SqliteConnection
from prefiq_db.dialects.sqlite_decimals import DecimalSqlite, keeps_texts, text_column
from prefiq_db.dialects.sqlite_rebuilds import check_drop, is_migrating, orphaned, orphans
from prefiq_db.dialects.streams import fetch_tuples
from prefiq_db.dialects.token_sql import ABANDONED, TABLE, first_word
from prefiq_db.dialects.upsert_sql import SqliteUpsert
from prefiq_db.dialects.values import SQLITE
from prefiq_db.errors import ErrorKind
from prefiq_db.translation.judging import STALE

# Statements that change nothing, or whose changes SQLite's total_changes counts. Neither DDL nor a PRAGMA that sets.
_COUNTED: Final = re.compile(
    r"\s*(?:(?:select|with|values|explain|insert|update|delete|replace)\b"
    r"|pragma\s+(?:\w+\s*\.\s*)?(?:(?:table_x?info|table_list|index_x?info|index_list|foreign_key_list|database_list)\b"
    r"|\w+\s*;?\s*\Z))",
    re.I,
)
_UNCOUNTED: Final = -1
# A transaction that the application begins with SQL text.
_BEGIN: Final = re.compile(r"\s*BEGIN(?:\s+(?:DEFERRED|IMMEDIATE|EXCLUSIVE))?(?:\s+TRANSACTION)?\s*;?\s*\Z", re.I)


class _Sqlite(SqliteBulk, DecimalSqlite, PrefiqDialect):
    label = "sqlite"
    has_sockets = False
    explain_words = "EXPLAIN QUERY PLAN"
    connection_characteristics: Any = characteristics()
    server_side_timeout = False
    values = SQLITE
    upserts = SqliteUpsert()
    twophase_refused = "SQLite has none"

    def chosen_isolation(self, state: SessionState) -> str | None:
        return None  # SQLite's BEGIN takes no isolation level

    def made(self, dbapi_connection: Any) -> bool:
        try:
            return isinstance(self._sqlite(dbapi_connection), SqliteConnection)
        except (AssertionError, AttributeError):
            return False

    def begin_sql(self, transaction: TransactionState) -> str:
        # A writer that begins as a reader fails with BUSY_SNAPSHOT if another connection wrote in the meantime, and no
        # timeout helps; IMMEDIATE waits for the lock. SQLAlchemy's own autobegin (ORM) stays deferred.
        return "BEGIN IMMEDIATE" if transaction.write and not transaction.read_only else "BEGIN"

    def do_begin(self, dbapi_connection: Any) -> None:
        state = self.session_of(dbapi_connection)
        transaction = state.transaction
        managed = transaction.managed
        if managed:
            # A writer waits for the lock here, in BEGIN IMMEDIATE.
            self._bound_lock_wait(dbapi_connection, transaction.local_timeout or self.limits.statement_timeout_seconds)
        elif not state.checkout.one_shot and is_migrating(dbapi_connection):
            self._foreign_keys_off(dbapi_connection, state)
        super().do_begin(dbapi_connection)
        if transaction.began:
            connection = self._sqlite(dbapi_connection.dbapi_connection)
            connection.ran = None if managed else False
            if not managed:
                connection.changes_before = connection.total_changes
        if transaction.read_only and self._was_read_only(dbapi_connection):
            self.control(dbapi_connection.dbapi_connection, "PRAGMA query_only = ON")

    def do_commit(self, dbapi_connection: Any) -> None:
        transaction = self.session_of(dbapi_connection).transaction
        began = transaction.began
        read_only = began and transaction.read_only and not self.limits.read_only
        if began:
            self._before_commit(dbapi_connection)
        try:
            super().do_commit(dbapi_connection)
        finally:
            if began:
                self._foreign_keys_on(dbapi_connection.dbapi_connection)
            if read_only:
                self._writable_again(dbapi_connection, read_only)

    def do_rollback(self, dbapi_connection: Any) -> None:
        transaction = self.session_of(dbapi_connection).transaction
        if not transaction.began:
            # By name, here and in _send: for each statement super() would search through all our base classes.
            PrefiqDialect.do_rollback(self, dbapi_connection)
            return
        read_only = self._was_read_only(dbapi_connection)
        self._sqlite(dbapi_connection.dbapi_connection).ran = None
        if not self.in_transaction(dbapi_connection.dbapi_connection):
            # BEGIN timed out: a ROLLBACK would fail, and its error would hide the cause.
            transaction.aborted = GONE
        super().do_rollback(dbapi_connection)
        self._foreign_keys_on(dbapi_connection.dbapi_connection)
        self._writable_again(dbapi_connection, read_only)

    # --- migrations by an env.py that isn't ours --------------------------------------------------

    def _foreign_keys_off(self, proxied: Any, state: SessionState) -> None:
        raw = proxied.dbapi_connection
        if self.ask(raw, "PRAGMA foreign_keys") != [(1,)]:
            return  # an env.py that switched foreign keys off checks them, too
        self._sqlite(raw).orphans = orphans(partial(self.ask, raw))
        self.control(raw, "PRAGMA foreign_keys = OFF")
        # Whatever happens to the transaction, the next user must not get a connection without foreign keys.
        state.checkout.tainted = True

    def _before_commit(self, proxied: Any) -> None:
        raw = proxied.dbapi_connection
        connection = self._sqlite(raw)
        connection.ran = None
        if connection.orphans is None:
            return
        new = orphans(partial(self.ask, raw)) - connection.orphans
        if new:
            self._undo_refused(proxied)
            raise orphaned(new)

    def _foreign_keys_on(self, raw: Any) -> None:
        connection = self._sqlite(raw)
        if connection.orphans is not None and not connection.in_transaction:
            connection.orphans = None
            self.control(raw, "PRAGMA foreign_keys = ON")

    def _was_read_only(self, proxied: Any) -> bool:
        transaction = self.session_of(proxied).transaction
        return transaction.began and transaction.read_only and not self.limits.read_only

    def _writable_again(self, proxied: Any, read_only: bool) -> None:
        # A COMMIT that failed was rolled back, and the rollback has done this already.
        if read_only and not self.session_of(proxied).transaction.began:
            self.control(proxied.dbapi_connection, "PRAGMA query_only = OFF")

    def control(self, dbapi_connection: Any, sql: str) -> str | None:
        self._sqlite(dbapi_connection).stop_clock()
        return super().control(dbapi_connection, sql)

    def in_transaction(self, dbapi_connection: Any) -> bool:
        return bool(self._sqlite(dbapi_connection).in_transaction)

    driver_habits = ("row_factory", "text_factory", "isolation_level")

    def is_at_rest(self, dbapi_connection: Any) -> bool:
        # Runs three times per statement, so it calls no helper.
        return not dbapi_connection.in_transaction and dbapi_connection.isolation_level is None

    def let_driver_work(self, dbapi_connection: Any) -> None:
        # The clock of the last statement is still running, for its rows; it would stop the driver's own at some time.
        self._sqlite(dbapi_connection).stop_clock()

    def set_driver_autocommit(self, dbapi_connection: Any, value: bool) -> None:
        dbapi_connection.isolation_level = None if value else ""

    def effect_of(self, error: Exception, proxied: Any) -> str | None:
        # SQLite rolls back by itself on a full disk, an I/O error and a few more: only this flag shows it.
        return None if self.in_transaction(proxied.dbapi_connection) else GONE

    def _send(self, send: Any, cursor: Any, statement: Any, parameters: Any, context: Any, batch_size: int) -> None:
        if context is None:
            PrefiqDialect._send(self, send, cursor, statement, parameters, context, batch_size)
            return
        connection = self._sqlite(context._dbapi_connection.dbapi_connection)
        columns = getattr(context.compiled, "decimal_columns", None)
        if columns and not connection.decimal_columns.issuperset(columns):
            self._check_decimals(columns, context, connection)
        if connection.ran is not None:
            send = self._in_deferred(send, connection)
        connection.start_clock()
        try:
            PrefiqDialect._send(self, send, cursor, statement, parameters, context, batch_size)
        except Exception:
            if connection.timed_out:  # the error is judged; the next one may be about something else
                connection.timed_out = False
                connection.stop_clock()
            if connection.refusal is None:
                raise
        else:
            return
        raise connection.refusal

    def fetch_batch(
        self, connection: Any, result: Any, size: int, seconds: float, deadline: Deadline | None = None
    ) -> Sequence[Any]:
        proxied = connection._dbapi_connection
        sqlite = self._sqlite(proxied.dbapi_connection)
        self.set_statement_timeout(proxied, seconds if deadline is None else min(seconds, deadline.left()))
        sqlite.start_clock()
        try:
            rows = fetch_tuples(result, size)
        except Exception:
            sqlite.timed_out = False  # the error is judged, as in _send
            if sqlite.refusal is None:
                raise
        else:
            return rows
        finally:
            sqlite.stop_clock()
        raise sqlite.refusal

    def _in_deferred(self, send: Any, connection: SqliteConnection) -> Any:
        """Return *send* for a transaction whose BEGIN took no lock, as in a session or a connection of the engine."""

        def send_in_deferred(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            if _BEGIN.match(statement) and connection.total_changes == connection.changes_before:
                # Queues such as kombu's read first, and then send BEGIN IMMEDIATE as text. Python's own driver allows
                # it: it has begun no transaction as long as no row was written.
                self.control(context.root_connection.connection.dbapi_connection, "COMMIT")
                connection.start_clock()
            if context.isddl:
                check_drop(partial(self.ask, context.root_connection.connection.dbapi_connection), statement)
            try:
                send(cursor, statement, parameters, context)
            except sqlite3.OperationalError as error:
                # SQLite doesn't let a transaction that has read wait for a writer: BUSY comes at once until the writer
                # commits, and BUSY_SNAPSHOT from then on.
                if connection.ran and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                    setattr(error, STALE, True)
                raise
            connection.ran = True
            if not _COUNTED.match(statement):
                connection.changes_before = _UNCOUNTED

        return send_in_deferred

    def do_savepoint(self, connection: Any, name: str) -> None:
        super().do_savepoint(connection, name)
        # Ending the transaction would release the lock.
        self._sqlite(connection.connection.dbapi_connection).changes_before = _UNCOUNTED

    def has_checked(self, dbapi_connection: Any, columns: frozenset[tuple[str, str]]) -> bool:
        return self._sqlite(dbapi_connection).decimal_columns.issuperset(columns)

    def _check_decimals(self, columns: Any, context: Any, connection: SqliteConnection) -> None:
        """Refuse a statement on a decimal column that still holds texts; check once per connection and column."""
        raw = context.root_connection._dbapi_connection.dbapi_connection
        connection.stop_clock()  # it may still run for the last statement
        for table, column in columns - connection.decimal_columns:
            name, of = (word.replace("'", "''") for word in (column, table))
            rows = self.ask(raw, f"SELECT type FROM pragma_table_info('{of}') WHERE name = '{name}'")
            if rows and keeps_texts(rows[0][0]):
                raise text_column(f"{table}.{column}")
            if rows:
                connection.decimal_columns.add((table, column))

    def set_statement_timeout(self, proxied: Any, seconds: float) -> None:
        connection = self._sqlite(proxied.dbapi_connection)
        connection.timeout_seconds = seconds
        if connection.lock_wait_seconds != min(self.limits.lock_timeout_seconds, seconds):
            self._bound_lock_wait(proxied, seconds)

    def _bound_lock_wait(self, proxied: Any, seconds: float) -> None:
        """Limit a lock wait to the statement timeout: our clock doesn't tick while SQLite waits."""
        connection = self._sqlite(proxied.dbapi_connection)
        wait = min(self.limits.lock_timeout_seconds, seconds)
        if connection.lock_wait_seconds != wait:
            self.control(proxied.dbapi_connection, f"PRAGMA busy_timeout = {max(1, round(wait * 1000))}")
            connection.lock_wait_seconds = wait

    def claim(self, dbapi_connection: Any, token: str, wait_seconds: float) -> str | None:
        for sql in (
            f"PRAGMA busy_timeout = {max(1, round(wait_seconds * 1000))}",
            "BEGIN IMMEDIATE",
            f"INSERT OR IGNORE {self.token_sql(token, ABANDONED).removeprefix('INSERT ')}",
        ):
            self.control(dbapi_connection, sql)
        word = first_word(self.ask(dbapi_connection, self.write_as_sql(token)))
        self.control(dbapi_connection, "COMMIT")
        return word

    def prune_sql(self, age_seconds: float, limit: int) -> str:
        return (
            f"DELETE FROM {TABLE} WHERE token IN (SELECT token FROM {TABLE}"
            f" WHERE created_at < strftime('%Y-%m-%d %H:%M:%f000', 'now', '-{age_seconds:.0f} seconds')"
            f" ORDER BY created_at LIMIT {limit:d})"
        )

    def timed_out(self, dbapi_connection: Any) -> bool | None:
        connection = self._open_one(dbapi_connection)
        # While the clock is stopped, as in BEGIN and COMMIT, it knows only of an earlier statement.
        return None if connection is None or connection.ends_at is None else connection.timed_out

    def interruption_of(self, dbapi_connection: Any) -> BaseException | None:
        connection = self._open_one(dbapi_connection)
        return None if connection is None else connection.interruption

    def _open_one(self, dbapi_connection: Any) -> SqliteConnection | None:
        try:
            return None if dbapi_connection is None else self._sqlite(dbapi_connection)
        except ValueError:  # aiosqlite has closed the connection
            return None

    # A PRAGMA that takes no lock. In memory even reading the schema would wait for a writer.
    health_sql = "PRAGMA query_only"

    def ailment_of(self, row: Any) -> ErrorKind | None:
        connector: Any = self.connector
        if row[0] and not self.limits.read_only:
            return ErrorKind.READ_ONLY
        if connector is None or connector.in_memory:
            return None
        if not os.path.exists(connector.path):
            # Connections that are open go on working, and lose everything when the last one closes.
            return ErrorKind.NOT_READY
        # The folder too: the write-ahead log is created beside the file.
        writable = os.access(connector.path, os.W_OK) and os.access(os.path.dirname(connector.path), os.W_OK)
        return None if writable else ErrorKind.READ_ONLY

    def _sqlite(self, dbapi_connection: Any) -> SqliteConnection:
        connection: SqliteConnection = dbapi_connection
        return connection


class PrefiqSqlite(_Sqlite, SQLiteDialect_pysqlite):
    supports_statement_cache = True

    def in_transaction(self, dbapi_connection: Any) -> bool:
        # Runs several times per statement, so it calls no helper.
        return dbapi_connection.in_transaction  # type: ignore[no-any-return]  # bool() would be a call more

    def is_ready(self, dbapi_connection: Any, state: SessionState, now: float) -> bool:
        try:
            if (
                dbapi_connection.in_transaction
                or dbapi_connection.isolation_level is not None
                or dbapi_connection.ran is not None
            ):
                return False
        except sqlite3.Error:  # it is closed
            return False
        return self._starts_clock(dbapi_connection, now)

    def _starts_clock(self, connection: SqliteConnection, now: float) -> bool:
        """Start the statement's clock; with limits of another call on the connection it is ``False``."""
        limits = self.limits
        seconds = limits.statement_timeout_seconds
        if connection.timeout_seconds != seconds or connection.lock_wait_seconds != limits.lock_wait_seconds:
            return False
        connection.timed_out = False
        connection.interruption = connection.refusal = None
        connection.ends_at = now + seconds
        return True

    def begin_usually(self, state: SessionState, dbapi_connection: Any) -> None:
        transaction = state.transaction
        transaction.start()
        transaction.began = True
        dbapi_connection.ends_at = None
        dbapi_connection.execute(self.begin_sql(transaction))

    def _send_commit(self, dbapi_connection: Any) -> str | None:
        dbapi_connection.ends_at = None
        dbapi_connection.execute("COMMIT")
        return None

    def is_ready_inside(self, dbapi_connection: Any, state: SessionState, now: float) -> bool:
        try:
            if not (state.transaction.began and dbapi_connection.in_transaction) or dbapi_connection.ran is not None:
                return False
        except sqlite3.Error:  # it is closed
            return False
        return self._starts_clock(dbapi_connection, now)

    def execute_alone(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        cursor.execute(statement, parameters)

    def columns_of(self, cursor: Any) -> Any:
        return cursor.description

    def settle(self, dbapi_connection: Any, error: Exception) -> Exception:
        connection = self._sqlite(dbapi_connection)
        if connection.timed_out:  # the error is judged; the next one may be about something else
            connection.timed_out = False
            connection.stop_clock()
        return error if connection.refusal is None else connection.refusal


class PrefiqSqliteAsync(AwaitingSqlite, AsyncSqliteBursts, _Sqlite, SQLiteDialect_aiosqlite):
    supports_statement_cache = True
    execution_ctx_cls = ContextOfBursts

    def _sqlite(self, dbapi_connection: Any) -> SqliteConnection:
        connection: SqliteConnection = dbapi_connection._connection._conn
        return connection

    def is_at_rest(self, dbapi_connection: Any) -> bool:
        return super().is_at_rest(dbapi_connection._connection._conn)

    def do_terminate(self, dbapi_connection: Any) -> None:
        # A cancelled statement still runs in the driver's thread, and close() would wait for it.
        if not can_await():
            self.close_now(dbapi_connection)
            return
        driver = dbapi_connection._connection
        if driver._connection is None or not driver._running:
            return
        driver._connection.stop_now()
        # Not its close(): if cancelled again, that would wait for ever for a thread that has ended.
        await_(asyncio.shield(driver.stop()))
