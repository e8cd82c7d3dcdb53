"""The connection of one transaction: the driver's, and SQLAlchemy's Connection over it when somebody asks.

The transaction has one state: ``SessionState.transaction``, beside the driver's connection. The dialect's ``do_begin``,
``do_commit`` and ``do_rollback`` read it, send what is to be sent, and write it; nobody else sends BEGIN, COMMIT or
ROLLBACK. Who calls them is either a :class:`Pinned`, as long as there is no Connection, or the Connection, from when it
is made. Never both: once there is one, the transaction ends through it, and a closed one is closed for good.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar, Final, NoReturn

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.engine import NestedTransaction

from prefiq_db.deadline import Deadline
from prefiq_db.dialects.session import SESSION_KEY, SessionState
from prefiq_db.dialects.transaction_errors import undone_error
from prefiq_db.engine_class import PrefiqConnection, taken
from prefiq_db.events import Line
from prefiq_db.execution.pool_proxy import OwnProxy, clean_up
from prefiq_db.execution.refused_statements import commit_of_a_block
from prefiq_db.execution.standard import StandardRoad, discard
from prefiq_db.origin import application_line
from prefiq_db.pool.checkout_deadline import checkout_by
from prefiq_db.translation.classify import Phase

# What was pinned and not returned: the reference tells when nobody has it any more, and keeps its place in the pool.
# Beside the place is how often it was returned until then: from the next time on, it may be another's.
_unreturned: Final[dict[weakref.ref[Pinned], tuple[Any, int]]] = {}


class Pinned:
    """A connection from its checkout for a transaction to its checkin.

    To our dialects it is what SQLAlchemy's Connection and its proxy are: it has what they use of both.

    Attributes:
        was_taken: there is or was a connection; an error before that belongs to connecting.
        view: SQLAlchemy's Connection over it; ``None`` before somebody has asked for :attr:`connection`.
        state: that of the session, and so the transaction's own.
        dbapi_connection: the driver's, until it is returned.
    """

    __slots__ = (
        "__weakref__",
        "_connection_record",
        "_handle",
        "_is_begun",
        "_returns",
        "dbapi_connection",
        "road",
        "state",
        "view",
        "was_taken",
    )

    state: SessionState

    def __init__(self, road: StandardRoad, connection: Connection | None = None) -> None:
        self.road = road
        self.view: Any = connection
        self.dbapi_connection: Any = None
        self._connection_record: Any = None
        self._returns = 0
        self._handle: RootTransaction | None = None
        self._is_begun = False
        self.was_taken = connection is not None
        if connection is not None:
            self.state = road.state(connection)

    def take(self, deadline: Deadline | None) -> None:
        """Check a connection out, without SQLAlchemy's proxy; do nothing if there is one."""
        if self.view is not None:
            return
        if deadline is None:
            record = taken(self.road.engine)
        else:
            with checkout_by(deadline):
                record = taken(self.road.engine)
        self.hold(record, record.info[SESSION_KEY], application_line())

    def hold(self, record: Any, state: SessionState, line: Line | None) -> None:
        """Hold the connection in the place *record*, which was taken from the pool at *line* of the application."""
        self.state = state
        self.dbapi_connection = record.dbapi_connection
        self._returns = returns = record.returns
        self._connection_record = record
        self.was_taken = True
        state.checkout.fairy_ref = reference = weakref.ref(self, _dropped)
        _unreturned[reference] = record, returns
        state.checkout.line = line

    def phase(self) -> Phase:
        """Return which step an error belongs to."""
        return "statement" if self.was_taken else "connect"

    # --- SQLAlchemy's Connection -------------------------------------------------------------------

    @property
    def connection(self) -> Any:
        """SQLAlchemy's Connection, in this transaction; made when it is first asked for."""
        return self._make_view() if self.view is None else self.view

    def _make_view(self) -> Any:
        record = self._connection_record
        assert self._is_held, "asked for after close()"
        # An interruption may drop it half-made: until it is whole, this object alone returns the connection.
        proxied = OwnProxy(record)
        view = PrefiqConnection(self.road.engine, proxied)
        view.begin_waits = self.state.transaction.owes_begin
        if self._is_begun:
            self._handle = _Joined(view)
        self.view = view
        proxied.return_itself()
        # A statement may be under way, in which a listener or another worker has asked: the driver's connection stays.
        self._let_go()
        self.road.dialect.expect_back(proxied, self.state)
        return view

    def _let_go(self) -> None:
        """Keep nothing of the connection: where an interruption leaves it with nobody, the pool finds its place empty.

        In this order: until the last line, discard() would still close it.
        """
        _unreturned.pop(self.state.checkout.fairy_ref, None)
        self._connection_record = None

    @property
    def _is_held(self) -> bool:
        """Whether this object has the connection, and no view; once it was returned, only the pool knows who has it."""
        record = self._connection_record
        return record is not None and record.returns == self._returns and record.place is not None

    @property
    def is_gone(self) -> bool:
        """Whether the connection was lost, or returned."""
        view = self.view
        if view is None:
            return not self._is_held
        return bool(view.invalidated or view.closed)

    @property
    def is_lost(self) -> bool:
        """Whether the connection was lost."""
        return self.view is not None and bool(self.view.invalidated)

    @property
    def is_closed(self) -> bool:
        """Whether the connection was returned."""
        return not self._is_held if self.view is None else bool(self.view.closed)

    # --- the transaction ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin, as :attr:`state` says."""
        view = self.view
        if view is not None:
            self._handle = _BlockTransaction(view)
            view.begin_waits = self.state.transaction.owes_begin
            return
        try:
            self.road.dialect.do_begin(self)
        except BaseException as error:  # noqa: BLE001 - SQLAlchemy decides how to raise it
            self._handle_dbapi_exception(error, None, None, None, None)
        self._is_begun = True

    def begin_broke(self, failure: BaseException) -> NoReturn:
        """Do with *failure*, which broke off a usual BEGIN, what :meth:`begin` does with its own."""
        try:
            raise failure
        except BaseException as error:  # noqa: BLE001 - likewise
            self._handle_dbapi_exception(error, None, None, None, None)
        finally:
            del failure

    def send_begin(self) -> None:
        """Send a BEGIN that waits for the first statement; do nothing if there is none."""
        if self.view is not None:
            self.view.send_begin()
            return
        try:
            self.road.dialect.begin_owed(self)
        except BaseException as error:  # noqa: BLE001 - likewise
            self._handle_dbapi_exception(error, None, None, None, None)

    def begin_nested(self) -> NestedTransaction:
        """Set a savepoint."""
        nested: NestedTransaction = self.connection.begin_nested()
        return nested

    def commit(self) -> None:
        """Commit; raise if that isn't certain."""
        road = self.road
        if self.view is None and not road.is_watched():
            try:
                road.dialect.do_commit(self)
            except BaseException as error:  # noqa: BLE001 - likewise
                self._failed(error)
            self._is_begun = False
            return
        _BlockTransaction.commit_as_block(self._whole_handle())

    def rollback(self) -> None:
        """Roll back what was begun."""
        road = self.road
        if self.view is None and not road.is_watched():
            try:
                road.dialect.do_rollback(self)
            except BaseException as error:  # noqa: BLE001 - likewise
                self._failed(error)
            self._is_begun = False
            return
        handle = self._whole_handle()
        if not handle._deactivated_from_connection:  # else somebody has rolled it back
            handle.rollback()

    def _whole_handle(self) -> RootTransaction:
        """Return SQLAlchemy's transaction, which somebody else may listen to."""
        if self.view is None:
            self._make_view()
        handle = self._handle
        assert handle is not None, "there is nothing to end before begin()"
        return handle

    def commit_broke(self, failure: BaseException) -> NoReturn:
        """Do with *failure*, which broke off a usual COMMIT, what :meth:`commit` does with its own."""
        dialect = self.road.dialect
        try:
            if isinstance(failure, Exception) and self.state.transaction.committing:
                dialect.commit_refused(self)
            raise failure
        except BaseException as error:  # noqa: BLE001 - likewise
            self._failed(error)
        finally:
            del failure

    def _failed(self, error: BaseException) -> NoReturn:
        """Let SQLAlchemy handle *error*, which the end of the transaction met, as its own transaction does."""
        handle = self._whole_handle()
        try:
            self.view._handle_dbapi_exception(error, None, None, None, None)
        finally:
            handle._deactivate_from_connection()
        raise AssertionError("it has raised the error")

    def was_ended(self) -> bool:
        """Return whether something other than us ended the transaction."""
        return not self.is_gone and self.road.dialect.was_ended(self)

    # --- the end -------------------------------------------------------------------------------------

    def give_back(self) -> bool:
        """Return the connection if there is nothing to clean up, and nobody to be told; return whether that was done.

        It is the pool that says whether the connection is at rest, by the server's last reply.
        """
        if self.view is not None or not self._is_held or self.state.transaction.began:
            return False
        record = self._connection_record
        pool = record.pool
        if record.finalize_callback or pool.dispatch.checkin or not self.road.dialect.is_at_rest(self.dbapi_connection):
            return False
        self._let_go()
        self.dbapi_connection = None
        pool.give_back(record)
        return True

    def close(self) -> None:
        """Return the connection, once the transaction has ended; what is still open is rolled back."""
        if not self.is_closed and not self.give_back():
            self.connection.close()
        self.dbapi_connection = None

    def discard(self) -> None:
        """Close the connection for good, unless it was returned: its state is unknown."""
        if self.view is not None or self._is_held:
            discard(self.connection)
        self.dbapi_connection = None

    def doubt(self) -> None:
        """Close the connection for good, and let the transaction be rolled back by that."""
        if not self.is_gone:
            self.connection.invalidate()

    # --- what our dialects use of SQLAlchemy's Connection, and of its proxy -------------------------------

    @property
    def _dbapi_connection(self) -> Any:
        return self if self.view is None else self.view._dbapi_connection

    def _handle_dbapi_exception(self, error: BaseException, *about: Any) -> NoReturn:
        self.connection._handle_dbapi_exception(error, *about)
        raise AssertionError("it has raised the error")

    @property
    def info(self) -> Mapping[str, Any]:
        """What the dialect asks for the state of the session, once the view has the place in the pool."""
        return {SESSION_KEY: self.state}

    @property
    def closed(self) -> bool:
        """Whether the driver knows that its connection is closed; SQLAlchemy's dialect of psycopg asks its proxy."""
        return bool(self.dbapi_connection.closed)

    @property
    def broken(self) -> bool:
        """Whether psycopg knows that its connection is lost."""
        return bool(self.dbapi_connection.broken)


class _BlockTransaction(RootTransaction):
    """SQLAlchemy's transaction on the connection of a block, which alone may commit it, and which has no other.

    If others committed it, the block would not know: it would say that nothing was committed, and might run again. If
    others rolled it back, and another one began in its place, the block would commit half of its work.
    """

    __slots__ = ()
    is_of_block: ClassVar[bool] = True

    def commit(self) -> None:
        """Refuse it."""
        raise commit_of_a_block()

    def commit_as_block(self: RootTransaction) -> None:
        """Commit, because the block ends.

        Raises:
            TransactionAbortedError: somebody has rolled it back.
        """
        if self._deactivated_from_connection:
            raise undone_error()
        RootTransaction.commit(self)


class _Joined(_BlockTransaction):
    """The same, on a connection where ours has begun."""

    __slots__ = ()

    def _connection_begin_impl(self) -> None:
        """Do nothing: it has begun."""


def _dropped(reference: weakref.ref[Pinned]) -> None:
    """Report a connection whose user has lost it unreturned; roll back and return it, as SQLAlchemy's pool does."""
    record, returns = _unreturned.pop(reference, (None, 0))
    if record is None or record.returns != returns or record.pid != os.getpid():
        return
    if record.fairy_ref is not None and record.fairy_ref() is not None:
        return  # a view has it, and its proxy returns it
    watcher, state = record.pool.watcher, record.info.get(SESSION_KEY)
    if watcher is not None and state is not None:
        watcher.collected(state)
    clean_up(record, reference)
