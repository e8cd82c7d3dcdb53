"""PostgreSQL through psycopg 3, sync and async."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
from sqlalchemy.sql.sqltypes import _Binary

from prefiq_db.bridge import await_
from prefiq_db.dialects.awaiting_postgresql import AwaitingPostgresql
from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.dialects.binary import Bytes
from prefiq_db.dialects.bulk_postgresql import AsyncCopy, PostgresqlBulk, SyncCopy
from prefiq_db.dialects.bursts_postgresql import AsyncPostgresqlBursts, PostgresqlBursts
from prefiq_db.dialects.characteristics import SCHEMA, Remembered, RememberedSchema, characteristics
from prefiq_db.dialects.enums import QuietPostgresqlEnum
from prefiq_db.dialects.node_roles import READ_ONLY
from prefiq_db.dialects.preparing_anew import PreparedAnew
from prefiq_db.dialects.session import AUTOCOMMIT, HALF, SessionState, TransactionState
from prefiq_db.dialects.token_sql import ABANDONED, TABLE, first_word
from prefiq_db.dialects.travelling_postgresql import PipelineTravelling
from prefiq_db.dialects.upsert_sql import PostgresqlUpsert
from prefiq_db.dialects.values import POSTGRESQL
from prefiq_db.drivers.readable import poller_of
from prefiq_db.errors import ErrorKind, UnsupportedError, UsageError

# psycopg.pq.TransactionStatus, by number: the dialect must import without the driver.
_IDLE, _ACTIVE, _IN_TRANSACTION, _IN_ERROR = range(4)
_OK = 0  # psycopg.pq.ConnStatus
_READ_ONLY: Final = READ_ONLY.encode()

# Prefix of application_name for a session whose claim waits: it lets us find the session that blocks it.
_CLAIM: Final = "prefiq_db claim "
_NAMES_OF_UTC: Final = frozenset(
    {"UTC", "Etc/UTC", "Etc/Zulu", "Zulu", "UCT", "Etc/UCT", "GMT", "Etc/GMT", "Universal"}
)


class _Postgresql(PostgresqlBulk, PipelineTravelling, PrefiqDialect):
    label = "postgresql"
    connection_characteristics: Any = characteristics(
        postgresql_readonly=Remembered("read_only"),
        postgresql_deferrable=Remembered("deferrable"),
        **{SCHEMA: RememberedSchema()},
    )
    values = POSTGRESQL
    upserts = PostgresqlUpsert()
    colspecs: ClassVar[Any] = {**PGDialect_psycopg.colspecs, _Binary: Bytes, sa.Enum: QuietPostgresqlEnum}
    login_arguments = frozenset({"user", "password", "dbname"})

    def on_connect(self) -> None:
        """Set up nothing: SQLAlchemy would log the server's notices, which may quote values."""

    def begin_sql(self, transaction: TransactionState) -> str:
        return "; ".join(self.begin_messages(transaction))

    def begin_messages(self, transaction: TransactionState) -> list[str]:
        """Return the statements that begin a transaction."""
        words = ["BEGIN"]
        if transaction.isolation is not None:
            words.append(f"ISOLATION LEVEL {transaction.isolation}")
        if transaction.read_only or self.limits.read_only:
            words.append("READ ONLY")
        if transaction.deferrable:
            words.append("DEFERRABLE")
        message = [" ".join(words)]
        timeout = transaction.local_timeout
        if timeout is None and not self.limits.session_settings:
            timeout = self.limits.statement_timeout_seconds
        if timeout is not None:
            message.append(f"SET LOCAL statement_timeout = {_ms(timeout)}")
        if not self.limits.session_settings:
            # Behind a transaction pooler a session keeps no settings, so each BEGIN sends the limits.
            message.append(f"SET LOCAL lock_timeout = {_ms(self.limits.lock_timeout_seconds)}")
            message.append("SET LOCAL timezone = 'UTC'")
        if transaction.token is not None:
            message.append(self.token_sql(transaction.token))
        if transaction.schema is not None:
            # Behind the token, whose table is in the session's own schema: one for all tenants. The name is checked.
            message.append(f'SET LOCAL search_path TO "{transaction.schema}"')
        return message

    def do_begin(self, dbapi_connection: Any) -> None:
        transaction = self.session_of(dbapi_connection).transaction
        if transaction.isolation == AUTOCOMMIT:
            if self.limits.read_only and not self.limits.session_settings:
                raise UnsupportedError(
                    "AUTOCOMMIT: behind pgbouncer only BEGIN can say that this database is read_only"
                )
            if transaction.schema is not None:
                raise UnsupportedError("AUTOCOMMIT: the override schema holds for a transaction, and there is none")
        if transaction.schema is not None:
            self._driver(dbapi_connection.dbapi_connection)._prepared.transaction = transaction
        super().do_begin(dbapi_connection)

    def commit_would_lie(self, dbapi_connection: Any) -> bool:
        return bool(self._driver(dbapi_connection).pgconn.transaction_status == _IN_ERROR)

    def effect_of(self, error: Exception, proxied: Any) -> str | None:
        # The server would refuse every later statement with 25P02; our error says what happened and what to do.
        return HALF if self.commit_would_lie(proxied.dbapi_connection) else None

    def in_transaction(self, dbapi_connection: Any) -> bool:
        driver = self._driver(dbapi_connection)
        return bool(driver.pgconn.transaction_status != _IDLE) and driver._hearing is None

    driver_habits = (
        "row_factory", "cursor_factory", "server_cursor_factory", "isolation_level", "deferrable", "read_only",
        "prepare_threshold", "_pipeline",
    )  # fmt: skip

    def is_at_rest(self, dbapi_connection: Any) -> bool:
        driver = self._driver(dbapi_connection)
        # Runs three times per statement, so we avoid the driver's property and its call.
        status = driver.pgconn.transaction_status
        return bool((status == _IDLE or (status == _ACTIVE and driver._hearing is not None)) and driver._autocommit)

    def set_driver_autocommit(self, dbapi_connection: Any, value: bool) -> None:
        if self.limits.read_only and not self.limits.session_settings:
            # Behind a transaction pooler the session can't be read-only; the driver's own BEGIN says so instead.
            dbapi_connection.set_read_only(None if value else True)
        dbapi_connection.autocommit = value

    def do_commit(self, dbapi_connection: Any) -> None:
        if self._driver(dbapi_connection.dbapi_connection)._pipeline is not None:
            # The reply to COMMIT would arrive when the pipeline ends, and no caller would see it.
            self.session_of(dbapi_connection).checkout.tainted = True
            raise UsageError("COMMIT in an open pipeline: nobody would hear its answer; leave the pipeline before that")
        super().do_commit(dbapi_connection)

    twophase_refused = "not supported on PostgreSQL"

    def set_statement_timeout(self, proxied: Any, seconds: float) -> None:
        state = self.session_of(proxied)
        self.bound_wait(state, proxied.dbapi_connection, seconds)
        transaction = state.transaction
        if transaction.owes_begin:
            if seconds != (state.session_timeout if transaction.local_timeout is None else transaction.local_timeout):
                transaction.local_timeout = seconds  # BEGIN says it
        elif transaction.began:
            # SET LOCAL ends with the transaction; ROLLBACK would silently undo a plain SET.
            local = transaction.local_timeout
            current = state.session_timeout if local is None else local
            if current != seconds:
                self.control(proxied.dbapi_connection, f"SET LOCAL statement_timeout = {_ms(seconds)}")
                transaction.local_timeout = seconds
        elif not self.limits.session_settings:
            transaction.local_timeout = seconds
        elif state.session_timeout != seconds:
            self.control(proxied.dbapi_connection, f"SET statement_timeout = {_ms(seconds)}")
            state.session_timeout = seconds

    @property
    def token_rides_with_begin(self) -> bool:
        return True

    def claim(self, dbapi_connection: Any, token: str, wait_seconds: float) -> str | None:
        # One message, so that no half of it is left behind. The SELECT sees the row that the INSERT conflicted with,
        # because READ COMMITTED takes a snapshot per statement; under SERIALIZABLE the conflict would be an error
        # (40001). The logical message in the WAL makes our COMMIT wait for a synchronous standby even when the row
        # existed: so the standby has whatever we report about the row.
        rows = self.ask(
            dbapi_connection,
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
            f"; SET LOCAL lock_timeout = {_ms(wait_seconds)}"
            f"; SET LOCAL application_name = '{_CLAIM}{token}'"
            f"; {self.token_sql(token, ABANDONED)} ON CONFLICT (token) DO NOTHING"
            "; SELECT pg_logical_emit_message(true, 'prefiq_db', 'claim')"
            f"; {self.write_as_sql(token)}"
            "; COMMIT",
        )
        return first_word(rows)

    def end_holder(self, dbapi_connection: Any, token: str) -> bool:
        # The claim waits for the end of a transaction that inserted the same key: the session that blocks it holds the
        # token. Exceptions: if the row is already visible, the claim waits for a DELETE; a table lock (from a
        # migration, say) is another kind of wait, and so is another claim. A session that waits for a synchronous
        # standby has committed: ending that wait would show what a failover loses.
        rows = self.ask(
            dbapi_connection,
            "SELECT pg_terminate_backend(holder.pid) FROM pg_stat_activity AS claim"
            " CROSS JOIN LATERAL unnest(pg_blocking_pids(claim.pid)) AS blocking(pid)"
            " JOIN pg_stat_activity AS holder ON holder.pid = blocking.pid"
            f" WHERE claim.application_name = '{_CLAIM}{token}' AND claim.wait_event = 'transactionid'"
            f" AND holder.application_name NOT LIKE '{_CLAIM}%'"
            " AND holder.wait_event IS DISTINCT FROM 'SyncRep'"
            f" AND NOT EXISTS ({self.write_as_sql(token)})",
        )
        return bool(rows)

    def prune_sql(self, age_seconds: float, limit: int) -> str:
        return (
            f"DELETE FROM {TABLE} WHERE token IN (SELECT token FROM {TABLE}"
            f" WHERE created_at < CURRENT_TIMESTAMP - make_interval(secs => {age_seconds:.0f})"
            f" ORDER BY created_at LIMIT {limit:d})"
        )

    def _deliver_insertmanyvalues_batches(
        self, connection: Any, cursor: Any, statement: Any, parameters: Any, setinputsizes: Any, context: Any
    ) -> Iterator[Any]:
        # SQLAlchemy splits a batch of INSERTs into several long ones; ON CONFLICT may insert fewer rows than it sends.
        count = 0
        batches: Any = super()
        for batch in batches._deliver_insertmanyvalues_batches(
            connection, cursor, statement, parameters, setinputsizes, context
        ):
            yield batch
            count += max(0, cursor.rowcount)
        context.inserted_row_count = count

    def close_stream(self, connection: Any, result: Any, seconds: float, *, is_last: bool) -> None:
        if is_last and result.cursor is not None:
            # The end of the transaction closes it at the server, too; CLOSE would be a round trip more.
            self._driver_cursor(result.cursor)._close()
        super().close_stream(connection, result, seconds, is_last=is_last)

    def clock_of(self, dbapi_connection: Any) -> Any:
        return self._driver(dbapi_connection)

    def end_of(self, dbapi_connection: Any) -> Exception | None:
        failure: Exception | None = self._driver(dbapi_connection).end_of()
        return failure

    def socket_of(self, dbapi_connection: Any) -> int | None:
        pgconn = self._driver(dbapi_connection).pgconn
        return -1 if pgconn.status != 0 else int(pgconn.socket)

    def _driver(self, dbapi_connection: Any) -> Any:
        return dbapi_connection

    def _driver_cursor(self, cursor: Any) -> Any:
        return cursor

    def columns_of(self, cursor: Any) -> Any:
        # psycopg's description makes an object of each column, and they can't be compared.
        result = self._driver_cursor(cursor).pgresult
        count = 0 if result is None else result.nfields
        if not count:
            return None if cursor.description is None else ()
        places = range(count)
        return [*map(result.fname, places), *map(result.ftype, places)]

    def knows(self, context: Any, kind: type) -> bool:
        from psycopg import ProgrammingError
        from psycopg.adapt import PyFormat

        driver = self._driver(context.root_connection._dbapi_connection.dbapi_connection)
        try:
            driver.adapters.get_dumper(kind, PyFormat.AUTO)
        except ProgrammingError:
            return False
        return True

    def zone_lost(self, first: Any, second: Any) -> str | None:
        # Another name of UTC, so that other users of the session in the meantime see the same times.
        self.control(second, "SET timezone = 'Etc/Zulu'")
        ((zone, own),) = self.ask(first, "SELECT setting, reset_val FROM pg_settings WHERE name = 'TimeZone'")
        self.control(second, "SET timezone = 'UTC'")
        return None if zone == "UTC" or own in _NAMES_OF_UTC else str(own)

    asks_role = False  # a pooler doesn't say it: see the connector

    def fits(self, dbapi_connection: Any) -> bool:
        return self.ailment_of(self.ask(dbapi_connection, self.health_sql)[0]) is None

    def says_demoted(self, dbapi_connection: Any) -> bool:
        return bool(self._driver(dbapi_connection).pgconn.parameter_status(_READ_ONLY) == b"on")

    # Outside a transaction it describes the next one: 'on' on a standby, and where server or user default to it.
    health_sql = "SELECT current_setting('transaction_read_only')"

    def ailment_of(self, row: Any) -> ErrorKind | None:
        return ErrorKind.READ_ONLY if row[0] == "on" else None


class PrefiqPostgresql(PostgresqlBursts, SyncCopy, _Postgresql, PreparedAnew, PGDialect_psycopg):
    supports_statement_cache = True

    def control(self, dbapi_connection: Any, sql: str) -> str | None:
        tag: str | None
        if sql == "COMMIT" and dbapi_connection._pipeline is None:
            with dbapi_connection.lock:
                tag = dbapi_connection.wait(dbapi_connection.commit_alone())
        else:
            # prepare=False: psycopg would PREPARE a BEGIN it has seen five times, and that costs a round trip.
            tag = dbapi_connection.execute(sql, prepare=False).statusmessage
        return tag

    def is_ready(self, dbapi_connection: Any, state: SessionState, now: float) -> bool:
        pgconn, limits = dbapi_connection.pgconn, self.limits
        seconds, poll = limits.statement_timeout_seconds, state.poll
        if poll is None and pgconn.status == _OK:
            state.poll = poll = poller_of(pgconn.socket)
        return (
            dbapi_connection._hearing is None
            and pgconn.status == _OK
            and pgconn.transaction_status == _IDLE
            and dbapi_connection._autocommit
            and dbapi_connection._pipeline is None
            and state.session_timeout == seconds == state.patience_seconds
            and limits.session_settings
            and poll is not None
            and not poll(0)
        )

    def is_ready_inside(self, dbapi_connection: Any, state: SessionState, now: float) -> bool:
        pgconn, limits, transaction = dbapi_connection.pgconn, self.limits, state.transaction
        expected = _IDLE if transaction.owes_begin else _IN_TRANSACTION
        return (
            transaction.owes_begin is not transaction.began
            and dbapi_connection._hearing is None
            and pgconn.status == _OK
            and pgconn.transaction_status == expected
            and dbapi_connection._pipeline is None
            and transaction.local_timeout is None
            and state.session_timeout == limits.statement_timeout_seconds == state.patience_seconds
            and limits.session_settings
        )

    def execute_alone(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        PreparedAnew.do_execute(self, cursor, statement, parameters)

    def hear_out(self, dbapi_connection: Any) -> bool:
        dbapi_connection.wait(iter(()))
        return self.is_at_rest(dbapi_connection)

    def ask(self, dbapi_connection: Any, sql: str) -> list[Any]:
        cursor = dbapi_connection.execute(sql, prepare=False)
        rows: list[Any] = []
        while True:
            if cursor.description is not None:
                rows = cursor.fetchall()
            if not cursor.nextset():
                return rows


class PrefiqPostgresqlAsync(
    AwaitingPostgresql, AsyncPostgresqlBursts, AsyncCopy, _Postgresql, PreparedAnew, PGDialectAsync_psycopg
):
    supports_statement_cache = True

    def control(self, dbapi_connection: Any, sql: str) -> str | None:
        tag: str | None = await_(self._controlled(dbapi_connection._connection, sql))
        return tag

    async def _controlled(self, driver: Any, sql: str) -> Any:
        if sql == "COMMIT" and driver._pipeline is None:
            async with driver.lock:
                return await driver.wait(driver.commit_alone())
        return (await driver.execute(sql, prepare=False)).statusmessage

    def hear_out(self, dbapi_connection: Any) -> bool:
        await_(dbapi_connection._connection.wait(iter(())))
        return self.is_at_rest(dbapi_connection)

    def ask(self, dbapi_connection: Any, sql: str) -> list[Any]:
        cursor = await_(dbapi_connection._connection.execute(sql, prepare=False))
        rows: list[Any] = []
        while True:
            if cursor.description is not None:
                rows = await_(cursor.fetchall())
            if not cursor.nextset():
                return rows

    def _driver(self, dbapi_connection: Any) -> Any:
        return dbapi_connection._connection

    def _driver_cursor(self, cursor: Any) -> Any:
        return cursor._cursor


def _ms(seconds: float) -> int:
    """Return whole milliseconds, at least 1: PostgreSQL reads 0 as no limit."""
    return max(1, round(seconds * 1000))
