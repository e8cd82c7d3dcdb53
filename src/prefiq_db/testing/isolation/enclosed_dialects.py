"""Our dialects with another transaction control: an outermost transaction is a savepoint in the test's transaction.

BEGIN is SAVEPOINT here, COMMIT is RELEASE, ROLLBACK is ROLLBACK TO. All that is above the dialects runs unchanged: who
owns a transaction, events, tokens, ``on_commit``, deadlines, retries. Nothing travels with a statement, and a batch is
sent one by one: that saves round trips, and decides nothing.
"""

from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from sqlalchemy.pool.base import _AdhocProxiedConnection

from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.dialects.mariadb import NO_SUCH_SAVEPOINT, Kind, kind_of
from prefiq_db.dialects.session import SessionState, TransactionState
from prefiq_db.dialects.token_sql import ABANDONED, first_word
from prefiq_db.dialects.transaction_control import TransactionDialect
from prefiq_db.execution.statement_facts import COUNTED, facts_sent
from prefiq_db.testing.isolation.enclosure import (
    STATEMENT,
    TRANSACTION,
    Enclosure,
    ends_it,
    gone,
    no_driver_transaction,
)
from prefiq_db.translation.driver_reports import code_of

_REFUSED_WRITE: Final = (1792, "Cannot execute statement in a READ ONLY transaction")
_DEFERRABLE: Final = "SELECT 1 FROM pg_constraint WHERE condeferrable LIMIT 1"
# What COMMIT checks, now; and then each constraint as it was declared, because SET CONSTRAINTS holds to the end.
_CHECK_NOW: Final = """DO $$ DECLARE late record; BEGIN
SET CONSTRAINTS ALL IMMEDIATE;
FOR late IN SELECT DISTINCT nspname, conname FROM pg_constraint JOIN pg_namespace AS space ON space.oid = connamespace
WHERE condeferred LOOP EXECUTE format('SET CONSTRAINTS %I.%I DEFERRED', late.nspname, late.conname); END LOOP; END $$"""
# SET LOCAL x, SET x, and the name in set_config('x', ...) where the text has it.
_SETS: Final = re.compile(r"(?i)^\s*set\s+(?:local\s+|session\s+)?([\w.]+)|\bset_config\s*\(\s*'([\w.]+)'")
_SETTINGS_BACK: Final = (
    "SELECT set_config(name, reset_val, true) FROM pg_settings WHERE source = 'session'"
    " AND setting IS DISTINCT FROM reset_val AND name NOT LIKE 'transaction~_%' ESCAPE '~'"
)
_WHO_ONE_IS: Final = (
    ({"session", "authorization", "session_authorization"}, "SET LOCAL SESSION AUTHORIZATION DEFAULT"),
    ({"role"}, "SET LOCAL role TO DEFAULT"),
)
_CHANGES_NO_SCHEMA: Final = COUNTED | {"select", "values", "table", "with", "show", "explain", "copy"}
_DEFERRED_IN_SQLITE: Final = "SELECT 1 FROM sqlite_master WHERE sql LIKE '%DEFERRED%' LIMIT 1"
_FOREIGN_KEY: Final = 787  # SQLITE_CONSTRAINT_FOREIGNKEY


class EnclosedDialect(PrefiqDialect):
    """Mixed in before one of our dialects."""

    enclosure: Enclosure
    has_bursts = False
    outer_begin: ClassVar[str] = "BEGIN"
    twophase_refused = "a test's fixture runs everything in one transaction"

    @property
    def begin_travels(self) -> bool:
        return False

    @property
    def commit_travels(self) -> bool:
        return False

    @property
    def token_rides_with_begin(self) -> bool:
        return False

    # --- the test's transaction ------------------------------------------------------------------

    def begin_outer(self, dbapi_connection: Any) -> None:
        """Begin the test's transaction on a new connection."""
        self.control(dbapi_connection, self.outer_begin)
        self.enclosure.raw = dbapi_connection

    def _outer_stands(self, dbapi_connection: Any) -> bool:
        return super().in_transaction(dbapi_connection)

    def in_transaction(self, dbapi_connection: Any) -> bool:
        return self.enclosure.is_open and self._outer_stands(dbapi_connection)

    def is_at_rest(self, dbapi_connection: Any) -> bool:
        if not self.enclosure.began:
            return super().is_at_rest(dbapi_connection)
        stands = self._outer_stands(dbapi_connection) and not self.commit_would_lie(dbapi_connection)
        return stands and not self.enclosure.is_open

    def not_at_rest(self, connection: Any) -> Any:
        return gone(self.enclosure.lost) if self.enclosure.lost else super().not_at_rest(connection)

    def _check_outer(self, dbapi_connection: Any, what: str) -> None:
        if self.enclosure.began and not self._outer_stands(dbapi_connection):
            self.enclosure.lost = self.enclosure.lost or what
            self.enclosure.check()

    # --- BEGIN, COMMIT, ROLLBACK -----------------------------------------------------------------

    def begin_sql(self, transaction: TransactionState) -> str:
        return f"SAVEPOINT {TRANSACTION}"

    def _send_begin(self, state: SessionState, dbapi_connection: Any) -> None:
        self._check_outer(dbapi_connection, "a statement ended it, or the connection was lost")
        self.enclosure.is_open, self.enclosure.state = True, state
        super()._send_begin(state, dbapi_connection)

    def _send_commit(self, dbapi_connection: Any) -> str | None:
        if self.enclosure.state.transaction.read_only:
            self._send_rollback(dbapi_connection)
        else:
            self.check_deferred(dbapi_connection)
            for sql in self.release(TRANSACTION):
                self.control(dbapi_connection, sql)
        self.enclosure.is_open = False
        return None

    def _send_rollback(self, dbapi_connection: Any) -> None:
        if self.enclosure.lost and not self._outer_stands(dbapi_connection):
            return  # the error that says so is on its way, and the server's would replace it
        for sql in self.undo(TRANSACTION):
            self.control(dbapi_connection, sql)
        self.enclosure.is_open = False

    def do_rollback(self, dbapi_connection: Any) -> None:
        super().do_rollback(dbapi_connection)
        if not self.session_of(dbapi_connection).transaction.began:
            self.enclosure.is_open = False  # nothing was sent if the server had ended it already

    def release(self, savepoint: str) -> list[str]:
        """Return what keeps the work since *savepoint*."""
        return [f"RELEASE SAVEPOINT {savepoint}"]

    def undo(self, savepoint: str) -> list[str]:
        """Return what undoes the work since *savepoint*."""
        return [f"ROLLBACK TO SAVEPOINT {savepoint}", f"RELEASE SAVEPOINT {savepoint}"]

    def check_deferred(self, dbapi_connection: Any) -> None:
        """Check the constraints that wait for COMMIT; raise what COMMIT would raise."""

    # --- statements outside a transaction --------------------------------------------------------

    def _send(
        self, send: Callable[..., None], cursor: Any, statement: str, parameters: Any, context: Any, batch_size: int
    ) -> None:
        proxied = None if context is None else context.root_connection._dbapi_connection
        if proxied is None or type(proxied) is _AdhocProxiedConnection or not self.enclosure.began:
            super()._send(send, cursor, statement, parameters, context, batch_size)
            return
        self.enclosure.check()
        state, raw = self.session_of(proxied), proxied.dbapi_connection
        send = self.judged(send, state, statement, context)
        if not state.transaction.began:
            send = self.alone(send, raw)
        super()._send(send, cursor, statement, parameters, context, batch_size)
        self._check_outer(raw, "one of its statements committed or rolled it back")

    def judged(self, send: Callable[..., None], state: SessionState, statement: str, context: Any) -> Any:
        """Return *send*, or raise for a statement that would end the test's transaction."""
        return send

    def alone(self, send: Callable[..., None], dbapi_connection: Any) -> Callable[..., None]:
        """Return *send* for a statement outside any transaction: if it fails, it alone is undone."""
        return send

    @contextmanager
    def _within_savepoint(self, dbapi_connection: Any) -> Iterator[None]:
        self.control(dbapi_connection, f"SAVEPOINT {STATEMENT}")
        try:
            yield
            self.check_deferred(dbapi_connection)
        except Exception:
            for sql in self.undo(STATEMENT):
                self.control(dbapi_connection, sql)
            raise
        for sql in self.release(STATEMENT):
            self.control(dbapi_connection, sql)

    # --- what needs other connections or transactions ---------------------------------------------

    def claim(self, dbapi_connection: Any, token: str, wait_seconds: float) -> str | None:
        # Whoever wrote the token wrote it in this transaction: there is nobody to wait for.
        with self._within_savepoint(dbapi_connection):
            rows = self.ask(dbapi_connection, self.write_as_sql(token))
            if not rows:
                self.control(dbapi_connection, self.token_sql(token, ABANDONED))
            return first_word(rows) or ABANDONED

    def check_driver_may_begin(self) -> None:
        raise no_driver_transaction()


class EnclosedPostgresql(EnclosedDialect):
    """Mixed in before PostgreSQL's dialects.

    A failed statement would spoil the test's whole transaction, so each one has a savepoint of its own.
    """

    def begin_sql(self, transaction: TransactionState) -> str:
        message = [f"SAVEPOINT {TRANSACTION}"]
        if transaction.read_only or self.limits.read_only:
            message.append("SET LOCAL transaction_read_only = on")
        if transaction.local_timeout is not None:
            message.append(_timeout(transaction.local_timeout))
        if transaction.token is not None:
            message.append(self.token_sql(transaction.token))
        if transaction.schema is not None:  # behind the token, as in production
            message.append(f'SET LOCAL search_path TO "{transaction.schema}"')
        return "; ".join(message)

    @property
    def token_rides_with_begin(self) -> bool:
        return True

    def release(self, savepoint: str) -> list[str]:
        message = [f"RELEASE SAVEPOINT {savepoint}"]
        if savepoint == TRANSACTION:
            # A SET LOCAL of the savepoint would go on to hold in the test's transaction.
            message += self._settings_back(self.enclosure.state.transaction)
        return ["; ".join(message)]

    def _settings_back(self, transaction: TransactionState) -> Iterator[str]:
        settings = self.enclosure.settings
        # Who one is, is no row of pg_settings; and it comes first, because another role may not set all of them.
        yield from (sql for names, sql in _WHO_ONE_IS if names & settings)
        if settings:
            yield _SETTINGS_BACK
            # PostgreSQL leaves an empty text where a setting of the application's own was.
            yield from (f"SET LOCAL {name} = ''" for name in sorted(settings) if "." in name)
        elif transaction.schema is not None:
            yield "SET LOCAL search_path TO DEFAULT"
        if settings or transaction.local_timeout is not None:
            yield _timeout(self.enclosure.state.session_timeout)

    def _send_begin(self, state: SessionState, dbapi_connection: Any) -> None:
        self.enclosure.settings.clear()
        super()._send_begin(state, dbapi_connection)

    def undo(self, savepoint: str) -> list[str]:
        return ["; ".join(super().undo(savepoint))]

    def judged(self, send: Callable[..., None], state: SessionState, statement: str, context: Any) -> Any:
        if facts_sent(context, statement, self.label).verb not in _CHANGES_NO_SCHEMA:
            self.enclosure.deferred = None
        if state.transaction.began:
            self.enclosure.settings.update((one or other).lower() for one, other in _SETS.findall(statement))
        return send

    def alone(self, send: Callable[..., None], dbapi_connection: Any) -> Callable[..., None]:
        def send_alone(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            with self._within_savepoint(dbapi_connection):
                send(cursor, statement, parameters, context)

        return send_alone

    def check_deferred(self, dbapi_connection: Any) -> None:
        if self.enclosure.deferred is None:
            self.enclosure.deferred = bool(self.ask(dbapi_connection, _DEFERRABLE))
        if self.enclosure.deferred:
            self.control(dbapi_connection, _CHECK_NOW)


def _timeout(seconds: float) -> str:
    return f"SET LOCAL statement_timeout = {max(1, round(seconds * 1000))}"


class EnclosedMariadb(EnclosedDialect):
    """Mixed in before the dialects of MariaDB and MySQL, whose DDL would commit the test's transaction."""

    outer_begin = "START TRANSACTION"

    def do_begin(self, dbapi_connection: Any) -> None:
        # Not MySQL's own, which sets the isolation level first: nobody may, in a transaction.
        TransactionDialect.do_begin(self, dbapi_connection)

    def judged(self, send: Callable[..., None], state: SessionState, statement: str, context: Any) -> Any:
        facts = facts_sent(context, statement, self.label)
        if facts.commits and not state.transaction.managed:  # transaction() refuses it itself
            raise ends_it(self.label, facts.commits)
        transaction = state.transaction
        writes = facts.verb in COUNTED or getattr(context, "carrier", None) is not None
        return self._refuse_write if transaction.began and transaction.read_only and writes else send

    def _refuse_write(self, cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        """Raise what the server raises in START TRANSACTION READ ONLY; a savepoint can't be read-only."""
        raise self.loaded_dbapi.OperationalError(*_REFUSED_WRITE)  # type: ignore[attr-defined]  # every driver has it

    def alone(self, send: Callable[..., None], dbapi_connection: Any) -> Callable[..., None]:
        def send_alone(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            if kind_of(statement) is Kind.PLAIN or context._is_server_side:
                send(cursor, statement, parameters, context)
                return
            # A procedure may commit and begin again: then the savepoint is gone.
            try:
                with self._within_savepoint(dbapi_connection):
                    send(cursor, statement, parameters, context)
            except self.loaded_dbapi.Error as error:  # type: ignore[attr-defined]  # every driver has it
                if code_of(error) != NO_SUCH_SAVEPOINT:
                    raise
            else:
                return
            self.enclosure.lost = "one of its statements committed or rolled it back"
            self.enclosure.check()

        return send_alone

    def close_stream(self, connection: Any, result: Any, seconds: float, *, is_last: bool) -> None:
        # The connection must live on, so the rows that nobody wants are read.
        super().close_stream(connection, result, seconds, is_last=False)


class EnclosedSqlite(EnclosedDialect):
    """Mixed in before SQLite's dialects. A statement that fails is undone by itself."""

    def alone(self, send: Callable[..., None], dbapi_connection: Any) -> Callable[..., None]:
        def send_alone(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            if not self._has_deferred(dbapi_connection):
                send(cursor, statement, parameters, context)
                return
            self.control(dbapi_connection, f"SAVEPOINT {STATEMENT}")
            self._sqlite(dbapi_connection).start_clock()  # type: ignore[attr-defined]  # of the dialect mixed in
            try:
                send(cursor, statement, parameters, context)
                self.check_deferred(dbapi_connection)
            except Exception:
                self.control(dbapi_connection, f"ROLLBACK TO SAVEPOINT {STATEMENT}")
                raise
            # Not released: RETURNING may have rows that nobody has read yet. The next one takes its name over.

        return send_alone

    def _has_deferred(self, dbapi_connection: Any) -> bool:
        return bool(self.ask(dbapi_connection, _DEFERRED_IN_SQLITE)) or self.ask(
            dbapi_connection, "PRAGMA defer_foreign_keys"
        ) == [(1,)]

    def check_deferred(self, dbapi_connection: Any) -> None:
        if self._has_deferred(dbapi_connection) and self.ask(dbapi_connection, "PRAGMA foreign_key_check"):
            failure = sqlite3.IntegrityError("FOREIGN KEY constraint failed")
            failure.sqlite_errorcode = _FOREIGN_KEY
            failure.sqlite_errorname = "SQLITE_CONSTRAINT_FOREIGNKEY"
            raise failure


_ENCLOSED: Final[dict[str, type[EnclosedDialect]]] = {
    "postgresql": EnclosedPostgresql,
    "mariadb": EnclosedMariadb,
    "mysql": EnclosedMariadb,
    "sqlite": EnclosedSqlite,
}


@functools.cache
def enclosed(kind: Any) -> Any:
    """Return the dialect class *kind* with the transaction control of a test."""
    mixin = _ENCLOSED[kind.label]
    return type(f"Enclosed{kind.__name__}", (mixin, kind), {"supports_statement_cache": True})
