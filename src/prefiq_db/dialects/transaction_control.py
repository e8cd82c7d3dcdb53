"""BEGIN, COMMIT, ROLLBACK and savepoints.

Connections are in autocommit at the driver, and SQLAlchemy does not know. We send BEGIN, COMMIT and ROLLBACK here, in
``do_begin``, ``do_commit`` and ``do_rollback``, and only if they have an effect. Why, and what it saves:
docs/decisions/0002-driver-autocommit-with-our-own-begin.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from prefiq_db.dialects.disconnects import JudgingDialect
from prefiq_db.dialects.session import AUTOCOMMIT, ENDED, FORGOTTEN, GONE, HALF, SessionState, TransactionState
from prefiq_db.dialects.token_sql import TokenDialect
from prefiq_db.dialects.transaction_errors import aborted_error, cannot_go_on, ended_error, left_open_error
from prefiq_db.errors import ErrorKind, StatementRefusedError, UnsupportedError


class TransactionDialect(JudgingDialect, TokenDialect):
    """Mixed into our dialects: beginning and ending transactions."""

    #: what an error does to the open transaction, where the server doesn't keep it in an aborted state itself
    after_error: ClassVar[Mapping[ErrorKind, str]] = {}

    def set_isolation_level(self, dbapi_connection: Any, level: str) -> None:
        raise UnsupportedError(
            "set the isolation level with execution_options(isolation_level=...) or transaction(isolation=...)"
        )

    def reset_isolation_level(self, dbapi_conn: Any) -> None:
        """Do nothing: the driver's own level is never changed."""

    def chosen_isolation(self, state: SessionState) -> str | None:
        """Return the isolation level in our BEGIN; ``None``: BEGIN names none, so the session's holds."""
        level = state.transaction.isolation
        return None if level == AUTOCOMMIT else level

    def begin_sql(self, transaction: TransactionState) -> str:
        raise NotImplementedError

    def new_cursor(self, dbapi_connection: Any, compiled: Any = None) -> Any:
        """Return a cursor for one statement, whose reply is read at once; ``None``: for a control statement."""
        return dbapi_connection.cursor()

    def control(self, dbapi_connection: Any, sql: str) -> str | None:
        """Send a control statement; return the server's command tag if there is one."""
        cursor = self.new_cursor(dbapi_connection) if self.waits_once else dbapi_connection.cursor()
        try:
            cursor.execute(sql)
        finally:
            cursor.close()
        return None

    def ask(self, dbapi_connection: Any, sql: str) -> list[Any]:
        """Send one of our own statements and return its rows."""
        cursor = dbapi_connection.cursor()
        try:
            cursor.execute(sql)
            return list(cursor.fetchall())
        finally:
            cursor.close()

    def in_transaction(self, dbapi_connection: Any) -> bool:
        """Return whether a transaction is open, by the server's last reply or by the driver, without a round trip."""
        raise NotImplementedError

    def is_at_rest(self, dbapi_connection: Any) -> bool:
        """Return whether no transaction is open and the driver is in autocommit; a closed connection is not at rest.

        A connection must be at rest before another user gets it. The check costs no round trip.
        """
        raise NotImplementedError

    def not_at_rest(self, connection: Any) -> StatementRefusedError:
        """Return the error for a one-shot statement that left a transaction open; the connection is then closed."""
        self.session_of(connection._dbapi_connection).checkout.tainted = True
        return left_open_error()

    def do_begin(self, dbapi_connection: Any) -> None:
        state = self.session_of(dbapi_connection)
        if state.checkout.one_shot:
            return
        transaction = state.transaction
        transaction.start()
        if not transaction.managed:
            # An earlier call with its own timeout may have used this connection.
            self.set_statement_timeout(dbapi_connection, self.limits.statement_timeout_seconds)
        if transaction.isolation == AUTOCOMMIT:
            return
        if transaction.may_wait and self.begin_travels:
            transaction.owes_begin = True
        else:
            self._send_begin(state, dbapi_connection.dbapi_connection)

    def begin_usually(self, state: SessionState, dbapi_connection: Any) -> None:
        """Begin as :meth:`do_begin`, where nothing was chosen and the connection is ready."""
        state.transaction.start()
        if self.begin_travels:
            state.transaction.owes_begin = True
        else:
            self._send_begin(state, dbapi_connection)

    @property
    def commit_travels(self) -> bool:
        """Whether COMMIT may be sent with a statement."""
        return False

    @property
    def begin_travels(self) -> bool:
        """Whether ``transaction()`` sends BEGIN with its first statement."""
        return False

    #: whether what travels stands in one text with the statement, which must not reach out of its place
    travels_in_text: ClassVar[bool] = False

    def begin_owed(self, proxied: Any) -> None:
        """Send, on its own, a BEGIN that has waited for the first statement; do nothing if there is none."""
        state = self.session_of(proxied)
        if not state.transaction.owes_begin:
            return
        try:
            self._send_begin(state, proxied.dbapi_connection)
        except Exception:
            state.transaction.begin_failed = True
            # As after a failed statement: the block can't go on.
            state.transaction.aborted = HALF
            raise

    def _send_begin(self, state: SessionState, dbapi_connection: Any) -> None:
        transaction = state.transaction
        transaction.owes_begin = False
        # Set before sending: if the reply is lost, we still owe a ROLLBACK.
        transaction.began = True
        self._bound_control(state, dbapi_connection)
        self.control(dbapi_connection, self.begin_sql(transaction))
        if transaction.token is not None and not self.token_rides_with_begin:
            self.control(dbapi_connection, self.token_sql(transaction.token))

    def in_company(
        self, send: Callable[..., None], state: SessionState, proxied: Any, context: Any
    ) -> Callable[..., None]:
        """Return *send* for a statement, which takes along the BEGIN that is owed and the COMMIT that is wanted.

        Where they can't travel, BEGIN is sent before it, and COMMIT at the end of the block.
        """
        self.begin_owed(proxied)
        return send

    def do_commit(self, dbapi_connection: Any) -> None:
        state = self.session_of(dbapi_connection)
        raw = dbapi_connection.dbapi_connection
        transaction = state.transaction
        is_open = self.in_transaction(raw)
        if not is_open and transaction.aborted != GONE:
            self._commit_nothing(transaction)
            return
        if transaction.aborted is not None or self.commit_would_lie(raw):
            failure = cannot_go_on(transaction)
            self._undo_refused(dbapi_connection)
            raise failure
        self._bound_control(state, raw)
        if transaction.only_reads and self.send_commit_unheard(transaction, raw):
            transaction.end()
            return
        self.check_not_ended(raw)
        transaction.committing = True
        try:
            tag = self._send_commit(raw)
        except Exception:
            self.commit_refused(dbapi_connection)
            raise
        transaction.committing = False
        self.note_committed(transaction, tag)

    def note_committed(self, transaction: TransactionState, tag: str | None) -> None:
        """Note that COMMIT was answered, with the command tag *tag* if there is one.

        Raises:
            TransactionAbortedError: the server has rolled back instead.
        """
        transaction.end()
        if tag == "ROLLBACK":
            raise aborted_error(None)

    def commit_refused(self, proxied: Any) -> None:
        """Clean up after a COMMIT that failed."""
        # SQLite keeps a transaction open after refusing its COMMIT, and other databases may, too.
        self._undo_refused(proxied)
        self.session_of(proxied).transaction.committing = True  # for the code that judges the error

    # --- a COMMIT whose reply is read with the next use of the connection ---------------------------

    def send_commit_unheard(self, transaction: TransactionState, dbapi_connection: Any) -> bool:
        """Send COMMIT without waiting for its reply; return whether that was done.

        Only for a transaction that did nothing but read: whatever becomes of COMMIT, nothing is lost.
        """
        return False

    def _send_commit(self, dbapi_connection: Any) -> str | None:
        clock = self.clock_of(dbapi_connection)
        if clock is None:
            return self.control(dbapi_connection, "COMMIT")
        clock.is_committing = True
        try:
            return self.control(dbapi_connection, "COMMIT")
        finally:
            clock.is_committing = False

    def _commit_nothing(self, transaction: TransactionState) -> None:
        """Finish a COMMIT that has nothing to send, or raise if the transaction no longer exists."""
        failure: Exception | None = None
        if transaction.aborted is None and transaction.began and transaction.managed:
            failure = ended_error(transaction.token)
        elif transaction.aborted is not None:
            failure = cannot_go_on(transaction)
        transaction.end()
        if failure is not None:
            raise failure

    def _undo_refused(self, proxied: Any) -> None:
        """Roll back what a refused COMMIT left open: SQLAlchemy takes the transaction for ended and won't."""
        try:
            self.do_rollback(proxied)
        except Exception:  # noqa: BLE001 - the refusal matters; the pool closes what isn't at rest
            self.session_of(proxied).checkout.tainted = True

    def do_rollback(self, dbapi_connection: Any) -> None:
        state = self.session_of(dbapi_connection)
        raw = dbapi_connection.dbapi_connection
        transaction, checkout = state.transaction, state.checkout
        transaction.committing = transaction.owes_begin = False
        if checkout.driver_begins:
            self._take_back(raw)
            checkout.driver_begins = False
            checkout.tainted = checkout.tainted or self._habits_of(raw) != checkout.habits
            return
        # An error reply says nothing of the transaction (MariaDB), so our own flag errs on the safe side.
        if not transaction.began and not self.in_transaction(raw):
            return
        if transaction.aborted not in (GONE, ENDED) or self.in_transaction(raw):
            self._bound_control(state, raw)
            self._send_rollback(raw)
        transaction.end()

    def _send_rollback(self, dbapi_connection: Any) -> None:
        self.control(dbapi_connection, "ROLLBACK")

    # --- a connection of the driver's own: raw_connection() --------------------------------------

    def check_driver_may_begin(self) -> None:
        """Raise where the driver must not begin and end transactions."""

    def let_driver_begin(self, proxied: Any) -> None:
        """Make *proxied* behave as PEP 249 says: the driver begins, and commit() and rollback() end the transaction."""
        self.set_statement_timeout(proxied, self.limits.statement_timeout_seconds)
        self.let_driver_work(proxied.dbapi_connection)
        checkout = self.session_of(proxied).checkout
        checkout.habits = self._habits_of(proxied.dbapi_connection)
        # Set first: whatever happens, the pool then checks the connection when it comes back.
        checkout.driver_begins = True
        self.set_driver_autocommit(proxied.dbapi_connection, False)

    def let_driver_work(self, dbapi_connection: Any) -> None:
        """Prepare the driver's connection for statements that we don't see: they have no time limit of ours."""

    def _take_back(self, dbapi_connection: Any) -> None:
        dbapi_connection.rollback()
        self.set_driver_autocommit(dbapi_connection, True)

    #: settings of a driver's connection that callers change, and that the next user must not inherit
    driver_habits: ClassVar[Sequence[str]] = ()

    def _habits_of(self, dbapi_connection: Any) -> list[Any]:
        driver = self.get_driver_connection(dbapi_connection)  # type: ignore[attr-defined]
        return [getattr(driver, name, None) for name in self.driver_habits]

    def set_driver_autocommit(self, dbapi_connection: Any, value: bool) -> None:
        """Switch the driver's own autocommit; only for raw_connection()."""
        raise NotImplementedError

    # --- a transaction that a statement ended -----------------------------------------------------

    #: why begin_twophase() is refused; empty where it works
    twophase_refused: ClassVar[str] = ""

    def do_begin_twophase(self, connection: Any, xid: Any) -> None:
        if self.twophase_refused:
            raise UnsupportedError(f"two-phase transactions: {self.twophase_refused}; use transaction()")
        super().do_begin_twophase(connection, xid)  # type: ignore[misc]

    def was_ended(self, connection: Any) -> bool:
        """Return whether a statement ended the transaction on SQLAlchemy's *connection*, with an unknown outcome."""
        proxied = connection._dbapi_connection
        transaction = self.session_of(proxied).transaction
        if transaction.aborted is not None:
            return transaction.aborted == ENDED
        return transaction.began and not self.in_transaction(proxied.dbapi_connection)

    def commits_by_itself(self, statement: str) -> bool:
        """Return whether *statement* ends an open transaction and needs none, as DDL does on MariaDB."""
        return False

    def _check_still_open(self, transaction: TransactionState, proxied: Any, statement: str = "") -> None:
        """Check, before anything is sent in a transaction, whether it is still open.

        ``transaction()`` can't go on after a statement ended it. A connection of SQLAlchemy's own goes on in a new
        transaction, as it does on a driver that is not in autocommit: DDL on MariaDB is the usual case.
        """
        if transaction.owes_begin:
            self.begin_owed(proxied)
        if transaction.aborted is not None:
            raise cannot_go_on(transaction)
        if self.in_transaction(proxied.dbapi_connection):
            return
        if transaction.managed:
            transaction.aborted = ENDED
            raise cannot_go_on(transaction)
        if not self.commits_by_itself(statement):
            self.do_begin(proxied)

    def _note_ending(self, transaction: TransactionState, proxied: Any) -> None:
        """Check, after a statement in ``transaction()``, whether it ended the transaction by itself."""
        if transaction.managed and not self.in_transaction(proxied.dbapi_connection):
            transaction.aborted = ENDED
        if transaction.aborted is not None:
            raise cannot_go_on(transaction)

    def commit_would_lie(self, dbapi_connection: Any) -> bool:
        """Return whether the server would answer COMMIT with a silent rollback."""
        return False

    def do_savepoint(self, connection: Any, name: str) -> None:
        self._savepoint(connection, f"SAVEPOINT {name}")

    def do_rollback_to_savepoint(self, connection: Any, name: str) -> None:
        transaction = self.session_of(connection._dbapi_connection).transaction
        if transaction.aborted in (GONE, ENDED):
            return
        self._savepoint(connection, f"ROLLBACK TO SAVEPOINT {name}", undoes=True)
        transaction.aborted = None
        if transaction.local_timeout is not None:
            # The server restored the value from before the savepoint, which we didn't keep.
            transaction.local_timeout = FORGOTTEN

    def do_release_savepoint(self, connection: Any, name: str) -> None:
        self._savepoint(connection, f"RELEASE SAVEPOINT {name}")

    def _savepoint(self, connection: Any, sql: str, *, undoes: bool = False) -> None:
        # SQLAlchemy judges the driver's errors in statements, but not in these calls. A connection that was lost or
        # cancelled in the middle of a reply must not be used again.
        proxied = connection._dbapi_connection
        try:
            self.begin_owed(proxied)
        except BaseException as error:  # noqa: BLE001 - likewise
            connection._handle_dbapi_exception(error, sql, None, None, None)
        if not undoes:
            self._check_still_open(self.session_of(proxied).transaction, proxied)
        try:
            self._bound_control(self.session_of(proxied), proxied.dbapi_connection)
            self.control(proxied.dbapi_connection, sql)
        except BaseException as error:  # noqa: BLE001 - SQLAlchemy decides how to raise it
            connection._handle_dbapi_exception(error, sql, None, None, None)

    def effect_of(self, error: Exception, proxied: Any) -> str | None:
        """Return what *error* did to the open transaction: ``None`` (nothing), ``HALF`` or ``GONE``."""
        by_code = self.judge(error, proxied).by_code if self.after_error else None
        return None if by_code is None else self.after_error.get(by_code.kind)
