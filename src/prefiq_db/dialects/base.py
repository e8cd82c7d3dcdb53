"""What all our dialects share: one connection pool for one-shots and transactions alike.

Connections are in autocommit at the driver and SQLAlchemy does not know. BEGIN, COMMIT and ROLLBACK are sent here,
by ``do_begin``, ``do_commit`` and ``do_rollback``, and only when there is something to say. Why and what it saves:
docs/decisions/0002-driver-autocommit-with-our-own-begin.md.
"""

from __future__ import annotations

import random
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol

from sqlalchemy import URL
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine.characteristics import ConnectionCharacteristic, IsolationLevelCharacteristic
from sqlalchemy.engine.interfaces import ConnectArgsType
from sqlalchemy.pool.base import _AdhocProxiedConnection

from prefiq_db.config import ISOLATION_LEVELS
from prefiq_db.dialects.tokens import TokenDialect
from prefiq_db.dialects.values import Values
from prefiq_db.drivers.deadlines import GRACE_SECONDS, DeadlinePassed
from prefiq_db.errors import (
    ErrorClass,
    ErrorKind,
    PrefiqDbError,
    StatementRefusedError,
    TransactionAbortedError,
    TransactionEndedError,
    UnsupportedError,
    UsageError,
)
from prefiq_db.masking import border_translates
from prefiq_db.translation.both import of_both
from prefiq_db.translation.judging import Judgement, judge

# Where a pooled connection keeps its state, in SQLAlchemy's info of its record.
SESSION_KEY: Final = "prefiq_db.session"
AUTOCOMMIT = "AUTOCOMMIT"

# The whole transaction is gone at the server although the client still thinks that it is in one; whatever came next
# would be committed statement by statement.
GONE = "gone"
# One statement was undone and the rest stands: COMMIT would keep half of the work.
HALF = "half"
# A statement ended the transaction by itself: what came before it was committed, or rolled back, behind our back.
ENDED = "ended"

# A timeout inside the transaction that is not the session's, and not known.
FORGOTTEN = -1.0


class SessionState:
    """What we know of one pooled connection without asking the server."""

    __slots__ = (
        "__weakref__",
        "aborted",
        "began",
        "call",
        "cause",
        "checked_out_at",
        "committing",
        "control_timeout",
        "deferrable",
        "driver_begins",
        "excused_at",
        "expires_at",
        "failed",
        "fairy_ref",
        "guard",
        "habits",
        "isolation",
        "last_used",
        "leaked",
        "line",
        "local_timeout",
        "managed",
        "one_shot",
        "patience_seconds",
        "read_only",
        "retry_number",
        "sent_at",
        "session_timeout",
        "summary",
        "tainted",
        "token",
        "transaction_id",
        "vetted_at",
        "wait_seconds",
        "worker",
        "write",
    )

    def __init__(self, expires_at: float, session_timeout: float | None) -> None:
        # This and the times below are on one clock, so that one look at it serves for several.
        self.expires_at = expires_at
        self.last_used = self.vetted_at = time.perf_counter()
        self.session_timeout = session_timeout
        #: what the driver's own clock is set to; ``None``: not known
        self.patience_seconds: float | None = None
        #: on the clock of perf_counter; 0.0 while nobody has it
        self.checked_out_at = 0.0
        self.began = False
        self.beginning()
        self.forget()

    def beginning(self) -> None:
        """Know nothing yet of what goes wrong in a transaction."""
        #: COMMIT was sent: what goes wrong now leaves the outcome unknown
        self.committing = False
        #: what the error was that aborted it
        self.cause: ErrorClass | None = None
        #: what the last error was that left a session or a connection of the engine
        self.failed: ErrorClass | None = None

    def forget(self) -> None:
        """Drop what belonged to one checkout: the next user starts from the defaults."""
        # Our transaction() bounds each statement itself; whoever else begins here gets the settings' limit.
        self.managed = False
        #: raw_connection(): the driver begins by itself, as PEP 249 says, until the connection comes back
        self.driver_begins = False
        #: what the driver's connection was set to before somebody had it raw
        self.habits: Any = None
        self.guard: Callable[[str, Any], None] | None = None
        self.one_shot = False
        self.write = False
        self.isolation: str | None = None
        self.read_only = False
        self.deferrable = False
        self.token: str | None = None
        #: the limit of BEGIN, COMMIT and the like, where it isn't the settings'
        self.control_timeout: float | None = None
        self.ended()
        # Who has it, and for what: told in events, leaks and the table of holders.
        self.call: Any = None
        self.line: Any = None
        self.worker: object = None
        self.leaked = False
        #: when the statement was sent that is under way, and when one was last seen to be; 0.0: none
        self.sent_at = self.excused_at = 0.0
        self.tainted = False
        self.summary = ""
        self.retry_number = 0
        self.transaction_id: int | None = None
        self.wait_seconds = 0.0
        self.fairy_ref: Any = None

    def ended(self) -> None:
        """Note that no transaction is open any more."""
        self.began = False
        self.aborted: str | None = None
        self.local_timeout: float | None = None


class Observer(Protocol):
    """Who wants to know of each statement that is sent."""

    def observe(
        self,
        send: Callable[..., None],
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        batch_size: int,
        state: SessionState,
    ) -> None:
        """Call ``send(cursor, statement, parameters, context)`` and tell what came of it."""


class Watcher(Protocol):
    """Who wants to know what the pool does with its connections."""

    #: seconds waited for and used, not counted yet; the pool adds to them
    waits: list[float]
    uses: list[float]
    #: whether checked_out and checked_in want to be called
    attentive: bool

    def know(self, state: SessionState) -> None:
        """Look at *state* from now on to see whether somebody has its connection."""

    def waited_in_vain(self, seconds: float) -> None:
        """No connection came back in time."""

    def opened(self, seconds: float) -> None:
        """A connection was opened."""

    def lost(self, reason: str) -> None:
        """A connection was thrown away."""

    def checked_out(self, state: SessionState) -> None:
        """Somebody got a connection; only called while attentive."""

    def checked_in(self, state: SessionState, seconds: float) -> None:
        """A connection came back after *seconds*; only called while attentive, or after a leak."""

    def fold(self) -> None:
        """Count what the pool noted."""

    def table(self) -> str:
        """Return who has the connections, a line each."""

    def collected(self, state: SessionState) -> None:
        """A connection was garbage-collected by its user instead of being given back."""


class _Isolation(IsolationLevelCharacteristic):
    """Remember the level; our BEGIN speaks it. The driver is never touched after connect."""

    def set_connection_characteristic(self, dialect: Any, conn: Any, dbapi_conn: Any, value: Any) -> None:
        level = str(value).upper().replace("_", " ")
        if level not in (*ISOLATION_LEVELS, AUTOCOMMIT):
            raise sa_exc.ArgumentError(f"isolation_level: expected one of {', '.join((*ISOLATION_LEVELS, AUTOCOMMIT))}")
        dialect.session_of(conn.connection).isolation = level

    def reset_characteristic(self, dialect: Any, dbapi_conn: Any) -> None:
        """Do nothing: the pool forgets it at checkin."""


class Remembered(ConnectionCharacteristic):
    """Remember a yes or no (read-only, deferrable) for our BEGIN."""

    transactional: ClassVar[bool] = True

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute

    def set_connection_characteristic(self, dialect: Any, conn: Any, dbapi_conn: Any, value: Any) -> None:
        setattr(dialect.session_of(conn.connection), self.attribute, bool(value))

    def reset_characteristic(self, dialect: Any, dbapi_conn: Any) -> None:
        """Do nothing: the pool forgets it at checkin."""

    def set_characteristic(self, dialect: Any, dbapi_conn: Any, value: Any) -> None:
        raise NotImplementedError  # SQLAlchemy calls the method above instead

    def get_characteristic(self, dialect: Any, dbapi_conn: Any) -> Any:
        raise NotImplementedError  # there is nothing at the driver to ask

    def get_connection_characteristic(self, dialect: Any, conn: Any, dbapi_conn: Any) -> Any:
        return getattr(dialect.session_of(conn.connection), self.attribute)


class PrefiqDialect(TokenDialect):
    """Mixed in before a SQLAlchemy dialect. The engine factory sets the instance attributes below."""

    #: how classify_error and people call this database
    label: ClassVar[str]
    #: what an error does to the open transaction, where the server doesn't hold it in an aborted state by itself
    after_error: ClassVar[Mapping[ErrorKind, str]] = {}
    #: what becomes of values on their way to the driver
    values: ClassVar[Values]
    #: a per-call statement timeout costs a round trip to set (it stays remembered)
    server_side_timeout: ClassVar[bool] = True

    # Set once by engines.make_engine, before the first connection.
    observer: Observer | None = None
    #: adds a call's tags to its statements as a comment; None when nobody asked for comments
    commenter: Callable[..., str] | None = None
    #: what makes a server tell its plan instead of running the statement
    explain_words: ClassVar[str] = "EXPLAIN"
    watcher: Watcher | None = None
    max_age_seconds: float = 1800.0
    ping_after_idle_seconds: float = 30.0
    connect_timeout_seconds: float = 5.0
    statement_timeout_seconds: float = 30.0
    lock_timeout_seconds: float = 10.0
    session_settings: bool = True

    @classmethod
    def get_async_dialect_cls(cls, url: Any) -> type:
        """Return this class: each world has its own, and SQLAlchemy must not replace it by the driver's."""
        return cls

    # --- session state ---------------------------------------------------------------------------

    def session_of(self, proxied: Any) -> SessionState:
        """Return the state of the connection that SQLAlchemy's *proxied* connection stands for."""
        record = proxied._connection_record
        info = record.info if record is not None else proxied.info
        state: SessionState | None = info.get(SESSION_KEY)
        return self._new_session(info) if state is None else state

    def session_in(self, info: Any) -> SessionState:
        """Return the state that is kept in a connection's *info*."""
        state: SessionState | None = info.get(SESSION_KEY)
        return self._new_session(info) if state is None else state

    def _new_session(self, info: Any) -> SessionState:
        # Up to 10 % earlier than the maximum, so that a pool filled at once doesn't reconnect at once.
        age = self.max_age_seconds * random.uniform(0.9, 1.0)
        timeout = self.statement_timeout_seconds if self.session_settings else None
        info[SESSION_KEY] = state = SessionState(time.perf_counter() + age, timeout)
        if self.watcher is not None:
            self.watcher.know(state)
        return state

    def expect_back(self, proxied: Any, state: SessionState) -> None:
        """Report the connection if it is garbage-collected by its user instead of being given back."""
        watcher = self.watcher
        if watcher is not None:
            # Forgotten at checkin, so it is called only for what nobody gave back.
            state.fairy_ref = weakref.ref(proxied, lambda _: watcher.collected(state))

    # --- connecting ------------------------------------------------------------------------------

    def __init__(self, connector: Callable[..., Any] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.connector = connector

    def create_connect_args(self, url: URL, *more: Any, **named: Any) -> ConnectArgsType:
        """Refuse an engine that somebody else makes of our engine's URL: it has no password, limits or set-up."""
        if self.connector is None:
            raise foreign_engine_refused()
        arguments: ConnectArgsType = super().create_connect_args(url, *more, **named)  # type: ignore[misc]
        self._connect_args = tuple(arguments[0]), dict(arguments[1])
        return arguments

    #: what a do_connect listener may say of a connection: who logs in where; all else is in the settings
    login_arguments: ClassVar[frozenset[str]] = frozenset()

    def _login(self, cargs: Sequence[Any], cparams: Mapping[str, Any]) -> dict[str, Any]:
        """Return what listeners of SQLAlchemy's do_connect changed: a password that is good for minutes, say."""
        as_made, named = self._connect_args
        missing = object()
        changed = {name: value for name, value in cparams.items() if named.get(name, missing) is not value}
        refused = sorted({*changed, *(named.keys() - cparams.keys())} - self.login_arguments)
        if refused or tuple(cargs) != as_made:
            allowed = ", ".join(sorted(self.login_arguments)) or "nothing"
            raise UsageError(
                f"do_connect: a listener changed {', '.join(refused) or 'the positional arguments'}; expected it to "
                f"change {allowed}. Everything else about a connection is in DatabaseSettings"
            )
        return changed

    def made(self, dbapi_connection: Any) -> bool:
        """Return whether a new connection is one of ours, with its clocks and its set-up."""
        try:
            driver = self.get_driver_connection(dbapi_connection)  # type: ignore[attr-defined]
        except AttributeError:  # another world's
            return False
        return type(driver).__module__.startswith("prefiq_db.")

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        """Connect through the engine's connector, which knows the password; SQLAlchemy's URL doesn't."""
        if self.connector is None:
            raise foreign_engine_refused()
        connect = super().connect  # type: ignore[misc]
        started = time.perf_counter()
        try:
            connection = self.connector(connect, cparams, self._login(cargs, cparams))
        except PrefiqDbError as error:
            if border_translates.get():
                raise
            raise of_both(error, behind=error) from None
        if self.watcher is not None:
            self.watcher.opened(time.perf_counter() - started)
        return connection

    def set_isolation_level(self, dbapi_connection: Any, level: str) -> None:
        raise UnsupportedError(
            "set the isolation level with execution_options(isolation_level=...) or transaction(isolation=...)"
        )

    def reset_isolation_level(self, dbapi_conn: Any) -> None:
        """Do nothing: the driver's own level is never changed."""

    def chosen_isolation(self, state: SessionState) -> str | None:
        """Return the level that our BEGIN says; ``None``: none, so that it is the session's."""
        return None if state.isolation == AUTOCOMMIT else state.isolation

    # --- transaction control ---------------------------------------------------------------------

    def begin_sql(self, state: SessionState) -> str:
        raise NotImplementedError

    def control(self, dbapi_connection: Any, sql: str) -> str | None:
        """Send a control statement; return the server's command tag where there is one."""
        cursor = dbapi_connection.cursor()
        try:
            cursor.execute(sql)
        finally:
            cursor.close()
        return None

    def ask(self, dbapi_connection: Any, sql: str) -> list[Any]:
        """Send a statement of ours and return its rows."""
        cursor = dbapi_connection.cursor()
        try:
            cursor.execute(sql)
            return list(cursor.fetchall())
        finally:
            cursor.close()

    def in_transaction(self, dbapi_connection: Any) -> bool:
        """Return whether the server's last word, or the driver, knows of an open transaction; asks nobody."""
        raise NotImplementedError

    def is_at_rest(self, dbapi_connection: Any) -> bool:
        """Return whether no transaction is open and the driver is in autocommit; a closed connection is not at rest.

        What passes between two users of a connection has to be. It asks nobody: no round trip.
        """
        raise NotImplementedError

    def not_at_rest(self, connection: Any) -> StatementRefusedError:
        """Return the error for a statement on its own that left something open, which goes with its connection."""
        self.session_of(connection._dbapi_connection).tainted = True
        return left_open_error()

    def do_begin(self, dbapi_connection: Any) -> None:
        state = self.session_of(dbapi_connection)
        if state.one_shot:
            return
        state.beginning()
        if not state.managed:
            # A call with a timeout of its own may have used this connection before.
            self.set_statement_timeout(dbapi_connection, self.statement_timeout_seconds)
        if state.isolation == AUTOCOMMIT:
            return
        # Up before it is sent: if the reply is lost, a ROLLBACK is owed.
        state.began = True
        self._bound_control(state, dbapi_connection.dbapi_connection)
        self.control(dbapi_connection.dbapi_connection, self.begin_sql(state))
        if state.token is not None and not self.token_rides_with_begin:
            self.control(dbapi_connection.dbapi_connection, self.token_sql(state.token))

    def do_commit(self, dbapi_connection: Any) -> None:
        state = self.session_of(dbapi_connection)
        raw = dbapi_connection.dbapi_connection
        is_open = self.in_transaction(raw)
        if not is_open and state.aborted != GONE:
            self._commit_nothing(state)
            return
        if state.aborted is not None or self.commit_would_lie(raw):
            failure = cannot_go_on(state)
            self._undo_refused(dbapi_connection)
            raise failure
        self._bound_control(state, raw)
        state.committing = True
        try:
            tag = self._send_commit(raw)
        except Exception:
            # SQLite keeps a transaction open whose COMMIT it refused, and so may others.
            self._undo_refused(dbapi_connection)
            state.committing = True  # for whoever judges the error
            raise
        state.committing = False
        state.ended()
        if tag == "ROLLBACK":
            raise aborted_error(None)

    def _send_commit(self, dbapi_connection: Any) -> str | None:
        clock = self.clock_of(dbapi_connection)
        if clock is None:
            return self.control(dbapi_connection, "COMMIT")
        clock.is_committing = True
        try:
            return self.control(dbapi_connection, "COMMIT")
        finally:
            clock.is_committing = False

    def _commit_nothing(self, state: SessionState) -> None:
        """Go through with a COMMIT for which there is nothing to send, or say that the transaction is not there."""
        failure: Exception | None = None
        if state.aborted is None and state.began and state.managed:
            failure = ended_error(state.token)
        elif state.aborted is not None:
            failure = cannot_go_on(state)
        state.ended()
        if failure is not None:
            raise failure

    def _undo_refused(self, proxied: Any) -> None:
        """Roll back what a refused COMMIT left open: SQLAlchemy takes the transaction for ended and won't."""
        try:
            self.do_rollback(proxied)
        except Exception:  # noqa: BLE001 - the refusal is what matters; the pool closes what isn't at rest
            self.session_of(proxied).tainted = True

    def do_rollback(self, dbapi_connection: Any) -> None:
        state = self.session_of(dbapi_connection)
        raw = dbapi_connection.dbapi_connection
        state.committing = False
        if state.driver_begins:
            self._take_back(raw)
            state.driver_begins = False
            state.tainted = state.tainted or self._habits_of(raw) != state.habits
            return
        # Where an error says nothing of the transaction (MariaDB), our own flag errs on the safe side.
        if not state.began and not self.in_transaction(raw):
            return
        if state.aborted not in (GONE, ENDED) or self.in_transaction(raw):
            self._bound_control(state, raw)
            self.control(raw, "ROLLBACK")
        state.ended()

    # --- a connection of the driver's own: raw_connection() --------------------------------------

    def let_driver_begin(self, proxied: Any) -> None:
        """Make *proxied* what PEP 249 says: the driver begins, and commit() and rollback() end it."""
        self.set_statement_timeout(proxied, self.statement_timeout_seconds)
        state = self.session_of(proxied)
        state.habits = self._habits_of(proxied.dbapi_connection)
        # Up before: whatever becomes of it, the connection is looked at when it comes back.
        state.driver_begins = True
        self.set_driver_autocommit(proxied.dbapi_connection, False)

    def _take_back(self, dbapi_connection: Any) -> None:
        dbapi_connection.rollback()
        self.set_driver_autocommit(dbapi_connection, True)

    #: what people set on a driver's connection, and the next user of it must not inherit
    driver_habits: ClassVar[Sequence[str]] = ()

    def _habits_of(self, dbapi_connection: Any) -> list[Any]:
        driver = self.get_driver_connection(dbapi_connection)  # type: ignore[attr-defined]
        return [getattr(driver, name, None) for name in self.driver_habits]

    def set_driver_autocommit(self, dbapi_connection: Any, value: bool) -> None:
        """Switch the driver's own autocommit; only for raw_connection()."""
        raise NotImplementedError

    # --- a transaction that ended behind our back ------------------------------------------------

    #: why begin_twophase() is refused; empty where it works
    twophase_refused: ClassVar[str] = ""

    def do_begin_twophase(self, connection: Any, xid: Any) -> None:
        if self.twophase_refused:
            raise UnsupportedError(f"two-phase transactions: {self.twophase_refused}; use transaction()")
        super().do_begin_twophase(connection, xid)  # type: ignore[misc]

    def was_ended(self, connection: Any) -> bool:
        """Return whether the transaction on SQLAlchemy's *connection* ended without us: nobody knows how."""
        proxied = connection._dbapi_connection
        state = self.session_of(proxied)
        if state.aborted is not None:
            return state.aborted == ENDED
        return state.began and not self.in_transaction(proxied.dbapi_connection)

    def commits_by_itself(self, statement: str) -> bool:
        """Return whether *statement* ends an open transaction and needs none, as DDL does on MariaDB."""
        return False

    def _check_still_open(self, state: SessionState, proxied: Any, statement: str = "") -> None:
        """See, before anything is sent in a transaction, whether it is still there.

        ``transaction()`` can't go on when something ended it. A connection of SQLAlchemy's own goes on in a new
        transaction, as it does on a driver that is not in autocommit: DDL on MariaDB is the usual case.
        """
        if state.aborted is not None:
            raise cannot_go_on(state)
        if self.in_transaction(proxied.dbapi_connection):
            return
        if state.managed:
            state.aborted = ENDED
            raise cannot_go_on(state)
        if not self.commits_by_itself(statement):
            self.do_begin(proxied)

    def _note_ending(self, state: SessionState, proxied: Any) -> None:
        """See, after a statement in ``transaction()``, whether it ended the transaction by itself."""
        if state.managed and not self.in_transaction(proxied.dbapi_connection):
            state.aborted = ENDED
        if state.aborted is not None:
            raise cannot_go_on(state)

    def commit_would_lie(self, dbapi_connection: Any) -> bool:
        """Return whether the server would answer COMMIT with a silent rollback."""
        return False

    def do_savepoint(self, connection: Any, name: str) -> None:
        self._savepoint(connection, f"SAVEPOINT {name}")

    def do_rollback_to_savepoint(self, connection: Any, name: str) -> None:
        state = self.session_of(connection.connection)
        if state.aborted in (GONE, ENDED):
            return
        self._savepoint(connection, f"ROLLBACK TO SAVEPOINT {name}", undoes=True)
        state.aborted = None
        if state.local_timeout is not None:
            # The server went back to what was set before the savepoint; nobody remembers what that was.
            state.local_timeout = FORGOTTEN

    def do_release_savepoint(self, connection: Any, name: str) -> None:
        self._savepoint(connection, f"RELEASE SAVEPOINT {name}")

    def _savepoint(self, connection: Any, sql: str, *, undoes: bool = False) -> None:
        # SQLAlchemy judges what the driver raises in a statement, but not in these calls. A connection that was lost
        # or cancelled in the middle of a reply must not be used again.
        proxied = connection.connection
        if not undoes:
            self._check_still_open(self.session_of(proxied), proxied)
        try:
            self._bound_control(self.session_of(proxied), proxied.dbapi_connection)
            self.control(proxied.dbapi_connection, sql)
        except BaseException as error:  # noqa: BLE001 - SQLAlchemy decides whose it is and raises it
            connection._handle_dbapi_exception(error, sql, None, None, None)

    # --- statements ------------------------------------------------------------------------------

    def knows(self, context: Any, kind: type) -> bool:
        """Return whether the driver takes values of a type that stands in no table of ours, such as a range."""
        return False

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        parameters = self.values.one(parameters, statement, context, self.knows)
        self._send(super().do_execute, cursor, statement, parameters, context, 1)  # type: ignore[misc]

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        parameters = self.values.many(parameters, statement, context, self.knows)
        self._send(super().do_executemany, cursor, statement, parameters, context, len(parameters))  # type: ignore[misc]

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        def send(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            super(PrefiqDialect, self).do_execute_no_params(cursor, statement, context)  # type: ignore[misc]

        self._send(send, cursor, statement, None, context, 1)

    def _send(
        self,
        send: Callable[..., None],
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        batch_size: int,
    ) -> None:
        proxied = None if context is None else context.root_connection._dbapi_connection
        # What SQLAlchemy asks a new server is nobody's statement, and a listener that used the database then would
        # wait for the very connection that is being made.
        state = None if proxied is None or type(proxied) is _AdhocProxiedConnection else self.session_of(proxied)
        if state is not None and state.began:
            self._check_still_open(state, proxied, statement)
        if state is not None and state.guard is not None:
            state.guard(statement, context)
        if self.commenter is not None and state is not None and state.call is not None and state.call.tags:
            send = self._commented(send, state.call.tags)
        failure: Exception | None = None
        try:
            if self.observer is None or state is None:
                send(cursor, statement, parameters, context)
            else:
                self.observer.observe(send, cursor, statement, parameters, context, batch_size, state)
        except Exception as error:
            if state is None or not self._note_failure(error, state, proxied, context):
                raise
            # Whatever went wrong, it must not be taken for something that another try mends.
            failure = cannot_go_on(state)
        if failure is not None:
            raise failure
        if state is not None and state.began:
            self._note_ending(state, proxied)

    def _note_failure(self, error: Exception, state: SessionState, proxied: Any, context: Any) -> bool:
        """Note what *error* did to the open transaction; return whether the statement had ended it before."""
        if not state.began:
            return False
        if state.aborted is None:
            state.aborted = self.effect_of(error, proxied)
        if state.aborted is None and context.executemany:
            # Where a failed row doesn't end the transaction, the rows before it stand, and nobody knows which.
            state.aborted = HALF
        if state.aborted is not None:
            state.cause = self.judge(error, proxied).by_code
        return state.aborted == ENDED

    def _commented(self, send: Callable[..., None], tags: Mapping[str, str]) -> Callable[..., None]:
        """Return *send*, adding *tags* at the end of the text; whoever watches sees the text without them."""
        commenter: Any = self.commenter
        percent = "%%" if self.paramstyle in ("format", "pyformat") else "%"  # type: ignore[attr-defined]

        def send_commented(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            send(cursor, commenter(statement, tags, percent=percent), parameters, context)

        return send_commented

    def effect_of(self, error: Exception, proxied: Any) -> str | None:
        """Return what *error* did to the open transaction: ``None`` (nothing), ``HALF`` or ``GONE``."""
        by_code = self.judge(error, proxied).by_code if self.after_error else None
        return None if by_code is None else self.after_error.get(by_code.kind)

    # --- timeouts --------------------------------------------------------------------------------

    def set_statement_timeout(self, proxied: Any, seconds: float) -> None:
        """Bound the statements that follow on this connection; silent when that is already so."""
        raise NotImplementedError

    def bound_statements(self, connection: Any, seconds: float, left_seconds: float | None = None) -> None:
        """Bound the statements that follow on SQLAlchemy's *connection*; what goes wrong there ends the connection.

        *left_seconds*, where given, is what the caller has left of a limit for more than one statement: the driver
        waits no longer than that, whatever the server allows.
        """
        proxied = connection._dbapi_connection
        try:
            self.set_statement_timeout(proxied, seconds)
            if left_seconds is not None and left_seconds < seconds:
                self.bound_wait(self.session_of(proxied), proxied.dbapi_connection, max(left_seconds, 0.0))
        except BaseException as error:  # noqa: BLE001 - likewise
            connection._handle_dbapi_exception(error, None, None, None, None)

    def bound_wait(self, state: SessionState, dbapi_connection: Any, seconds: float) -> None:
        """Let the driver wait for each reply a little longer than *seconds*, in which the server should have given up.

        The driver's own clock: a server that is frozen, or behind a silent network, keeps no limit by itself.
        """
        if state.patience_seconds != seconds:
            state.patience_seconds = seconds
            self.set_patience(dbapi_connection, seconds + GRACE_SECONDS)

    def set_patience(self, dbapi_connection: Any, seconds: float) -> None:
        """Set the driver's clock: the longest that one request may take, which ends the connection if it does."""
        clock = self.clock_of(dbapi_connection)
        if clock is not None:
            clock.patience_seconds = seconds

    def clock_of(self, dbapi_connection: Any) -> Any:
        """Return what keeps the driver's clock, and stops at the server what it gave up; ``None`` where none does."""
        return None

    def _bound_control(self, state: SessionState, dbapi_connection: Any) -> None:
        limit = state.control_timeout
        self.bound_wait(state, dbapi_connection, self.statement_timeout_seconds if limit is None else limit)

    def timed_out(self, dbapi_connection: Any) -> bool | None:
        """Return whether our own clock ended the last statement; ``None`` where only the server knows."""
        return None

    def interruption_of(self, dbapi_connection: Any) -> BaseException | None:
        """Return what a signal handler raised during the last statement, where the driver swallows it."""
        return None

    # --- liveness --------------------------------------------------------------------------------

    def socket_of(self, dbapi_connection: Any) -> int | None:
        """Return the file descriptor of an idle connection, ``-1`` when it is known to be closed, ``None`` if n/a."""
        return None

    #: what a health check asks, and ailment_of understands the answer to
    health_sql: ClassVar[str] = "SELECT 1"

    def ailment_of(self, row: Any) -> ErrorKind | None:
        """Return why the server that answered ``health_sql`` with *row* is no good for work; ``None`` when it is."""
        return None

    def zone_lost(self, first: Any, second: Any) -> str | None:
        """Return the server's own time zone if that may become a session's, and ours is forgotten; else ``None``.

        Of a pooler that lends its sessions to one client after another: *first* and *second* are two of its clients.
        """
        return None

    # --- errors ----------------------------------------------------------------------------------

    def judge(self, error: BaseException, proxied: Any) -> Judgement:
        """Judge *error*, which came up on SQLAlchemy's *proxied* connection, unless that is done already."""
        raw = getattr(proxied, "dbapi_connection", proxied)
        return judge(
            error,
            self.label,
            by_timeout=self.timed_out(raw),
            swallowed=self.interruption_of(raw),
            is_lost=lambda by_code: self._is_lost(error, by_code, proxied, raw),
        )

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        return bool(self.judge(e, connection).lost)

    def _is_lost(self, error: Any, by_code: ErrorClass | None, proxied: Any, raw: Any) -> bool | None:
        """Return whether *error* tells that its connection is lost; ``None`` for what is no error of the driver."""
        if not isinstance(error, self.loaded_dbapi.Error):  # type: ignore[attr-defined]
            return None
        if isinstance(error, DeadlinePassed) or super().is_disconnect(error, proxied, None):  # type: ignore[misc]
            return True
        if by_code is None:  # not the server's word, so the connection is asked
            return raw is not None and self.socket_of(raw) == -1
        if by_code.kind is ErrorKind.READ_ONLY:
            # Where another connection may find a writer, this one and those made before it are no good. But what our
            # own READ ONLY refused, every server refuses.
            return by_code.transient and not self.began_read_only(proxied)
        return by_code.connection_lost

    def began_read_only(self, proxied: Any) -> bool:
        """Return whether the transaction that is open on SQLAlchemy's *proxied* connection is a READ ONLY of ours."""
        if proxied is None:
            return False
        state = self.session_of(proxied)
        return state.began and state.read_only


def cannot_go_on(state: SessionState) -> PrefiqDbError:
    """Return the error for whoever goes on in, or commits, a transaction that is aborted or not there any more."""
    return ended_error(state.token) if state.aborted == ENDED else aborted_error(state.cause)


def ended_error(token: str | None) -> PrefiqDbError:
    """Return the error for a transaction that something in it has ended; for either tree."""
    return of_both(
        TransactionEndedError(
            "the transaction can't go on: a statement in it, or the driver's own commit() or rollback(), has ended it, "
            "and what came before that is committed or undone already; look before you repeat it. COMMIT and DDL don't "
            "belong into procedures and dynamic SQL that run inside transaction()",
            token=token,
        )
    )


def left_open_error() -> StatementRefusedError:
    return StatementRefusedError(
        "this statement began a transaction and did not end it, or switched autocommit off, as a procedure may do; "
        "what it left open is rolled back. End it in the procedure, or run it without a BEGIN inside transaction()"
    )


def foreign_engine_refused() -> UsageError:
    return UsageError(
        "this URL belongs to an engine of prefiq_db and opens nothing by itself: it has no password and no session "
        "set-up. Use the engine itself (db.engine), or give create_engine() a URL with a driver of SQLAlchemy's own"
    )


def aborted_error(cause: ErrorClass | None) -> PrefiqDbError:
    """Return the error for a transaction that an earlier error, of class *cause*, has aborted; for either tree.

    It may run again if that one may.
    """
    again = cause is not None and cause.retry_transaction
    return of_both(
        TransactionAbortedError(
            "the transaction can't go on: an earlier statement in it failed and undid work, and COMMIT would keep only "
            "the rest; let the error leave the block, or put the risky statement in a nested transaction()",
            classification=ErrorClass(ErrorKind.USAGE, transient=again, retry_transaction=again),
        )
    )


def characteristics(**more: ConnectionCharacteristic) -> Mapping[str, ConnectionCharacteristic]:
    """Return the connection characteristics of a dialect: the remembered isolation level, and *more*."""
    from sqlalchemy.engine.characteristics import LoggingTokenCharacteristic

    return {"isolation_level": _Isolation(), "logging_token": LoggingTokenCharacteristic(), **more}


__all__: Sequence[str] = ("ENDED", "GONE", "HALF", "PrefiqDialect", "Remembered", "SessionState", "characteristics")
