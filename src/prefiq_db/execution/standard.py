"""Run statements through SQLAlchemy's Connection; the border translates the errors of every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, NullPool, TextClause

from prefiq_db.call import Call
from prefiq_db.deadline import Deadline
from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.dialects.sending import ONE_STATEMENT
from prefiq_db.dialects.session import SessionState
from prefiq_db.engine_class import checked_out
from prefiq_db.errors import (
    ErrorClass,
    ErrorKind,
    PoolTimeoutError,
    PrefiqDbError,
    ReadOnlyError,
    StatementCancelledError,
)
from prefiq_db.execution.refused_statements import refuse_one_shot
from prefiq_db.execution.statement_facts import facts_of_call, facts_sent
from prefiq_db.origin import application_line
from prefiq_db.pool.checkout_deadline import checkout_by
from prefiq_db.translation.border import Border
from prefiq_db.translation.classify import Phase


class StandardRoad:
    """Checks out connections and runs statements on them."""

    def __init__(self, engine: Engine, database: str, *, masked: bool = True, pooled: bool = True) -> None:
        self.engine = engine
        self.pooled = pooled
        self.dialect: PrefiqDialect = engine.dialect  # type: ignore[assignment]
        self.border = Border(database, self.dialect.label, masked=masked)

    def outside(self) -> StandardRoad:
        """Return a road to the same database without a pool: each connection is opened anew, and closed after use."""
        engine = self.engine
        pool = NullPool(engine.pool._creator, dialect=engine.dialect)
        single = Engine(
            pool,
            engine.dialect,
            engine.url,
            hide_parameters=engine.hide_parameters,
            execution_options=engine.get_execution_options(),
        )
        return StandardRoad(single, self.border.database, masked=self.border.masked, pooled=False)

    def checkout(self, deadline: Deadline | None = None) -> Connection:
        """Return a connection from the pool, or a new one; nothing was sent on it yet.

        Raises:
            PoolTimeoutError: if none became free in time; the message names who holds them.
        """

        connection: Connection | None = None

        def connect() -> None:
            nonlocal connection
            if deadline is None:
                connection = self.engine.connect()
            else:
                with checkout_by(deadline):
                    connection = self.engine.connect()

        try:
            self.border.cross(connect, "connect")
            assert connection is not None
            state = self.state(connection)
            state.checkout.line = application_line()
            if self.pooled:
                self.dialect.expect_back(connection._dbapi_connection, state)
            return connection
        except PoolTimeoutError as error:
            self.name_holders(error)
            raise
        except BaseException:
            # No one else has this connection yet.
            if connection is not None:
                discard(connection)
            raise

    def name_holders(self, error: PrefiqDbError) -> None:
        """Let *error* say who has the connections, if none became free in time."""
        if isinstance(error, PoolTimeoutError) and self.dialect.watcher is not None:
            error.args = (f"{error}\nwho has them:\n{self.dialect.watcher.table()}",)

    def is_watched(self) -> bool:
        """Return whether SQLAlchemy's own objects are to be seen, because somebody else listens to them."""
        return True

    def state(self, connection: Connection) -> SessionState:
        return self.dialect.session_of(connection._dbapi_connection)

    def one_shot(self, call: Call) -> Any:
        """Check out a connection, execute, fetch and return it, with one error translation for all steps.

        Raises:
            PrefiqDbError: classified by the step that failed: before the statement was sent, it had no effect.
        """
        return self.fly(self.new_shot(call))

    def fly(self, trip: Shot) -> Any:
        """Return what *trip* fetches, and return its connection, whatever happens."""
        try:
            try:
                return self.border.cross(trip.go, trip.phase)
            except PoolTimeoutError as error:
                self.name_holders(error)
                raise
            except StatementCancelledError:
                interruption = self._interruption_of(trip.connection)
                if interruption is None:
                    raise
            except PrefiqDbError:
                raise
            except BaseException:
                # Its reply may still arrive, and must not be read as the next statement's.
                trip.drop()
                raise
            finally:
                trip.end()
            raise interruption
        except BaseException:
            # A no-op unless an interruption kept the connection from being returned.
            trip.drop()
            raise

    def new_shot(self, call: Call) -> Shot:
        """Return the way that *call* goes to the driver and back."""
        return OneShot(self, call)

    def _interruption_of(self, connection: Connection | None) -> BaseException | None:
        if connection is None or connection.invalidated or connection.closed:
            return None
        return self.dialect.interruption_of(connection._dbapi_connection.dbapi_connection)  # type: ignore[union-attr]

    def run(self, connection: Connection, call: Call, timeout_seconds: float, deadline: Deadline | None = None) -> Any:
        """Carry out *call* in a transaction and return what its shape fetches; the caller finishes it.

        *deadline*, where given, is the transaction's own.
        """

        return self.crossed(
            connection, lambda: self.send(connection, call, timeout_seconds, deadline), is_last=call.last
        )

    def send(self, connection: Connection, call: Call, seconds: float, deadline: Deadline | None) -> Any:
        """Execute the statement of *call* in a transaction and return what its shape fetches."""
        self.state(connection).statement.call = call
        self.dialect.bound_statements(connection, seconds, deadline)
        return call.shape.fetch(connection.execute(call.statement, call.params))

    def crossed(self, connection: Connection, send: Callable[[], Any], *, is_last: bool = False) -> Any:
        """Return what *send* returns, which runs a statement in the transaction on *connection*."""
        try:
            if not is_last:
                return self.border.cross(send)
            transaction = self.state(connection).transaction
            return self.border.cross(send, lambda: "commit" if transaction.committing else "statement")
        except ReadOnlyError as error:
            self._note_read_only(connection, error)
            raise
        except StatementCancelledError:
            interruption = self._interruption_of(connection)
            if interruption is None:
                raise
        raise interruption

    def _note_read_only(self, connection: Connection, error: ReadOnlyError) -> None:
        if not connection.invalidated and self.dialect.began_read_only(connection._dbapi_connection):
            # Our own READ ONLY refused it, and would on every server: no failover to wait for.
            error.classification = ErrorClass(ErrorKind.READ_ONLY)

    def refuse_untied(self, statement: str, context: Any) -> None:
        """Raise if a Core construct, in its compiled form, makes no sense outside a transaction."""
        if not context.execution_options.get(ONE_STATEMENT):
            refuse_one_shot(facts_sent(context, statement, self.dialect.label))

    def connect_without_begin(self) -> Connection:
        """Return a connection without SQLAlchemy's autobegin, for a statement outside any transaction."""
        return Connection(self.engine, checked_out(self.engine), _allow_autobegin=False)


class Shot(Protocol):
    """One statement outside a transaction, from the checkout to the checkin."""

    connection: Connection | None

    def go(self) -> Any:
        """Return what the shape fetches."""

    def phase(self) -> Phase:
        """Return which step an error belongs to."""

    def drop(self) -> None:
        """Close the connection, unless it has been returned."""

    def end(self) -> None:
        """Return the connection."""


class OneShot:
    """The steps of one statement; the step reached decides what an error means."""

    __slots__ = ("call", "connection", "road", "sent")

    def __init__(self, road: StandardRoad, call: Call) -> None:
        self.road = road
        self.call = call
        self.connection: Connection | None = None
        self.sent = False

    def go(self) -> Any:
        road, call = self.road, self.call
        deadline = call.deadline
        if deadline is None:
            self.connection = connection = road.connect_without_begin()
        else:
            with checkout_by(deadline):
                self.connection = connection = road.connect_without_begin()
        dialect, statement = road.dialect, call.statement
        state = dialect.session_of(connection._dbapi_connection)
        checkout = state.checkout
        checkout.one_shot = True
        if type(statement) is not TextClause:  # a text was checked before
            checkout.guard = road.refuse_untied
        state.statement.call = call
        checkout.retry_number = call.attempts - 1
        if dialect.is_unheard(connection._dbapi_connection.dbapi_connection):  # type: ignore[union-attr]
            checkout.repeatable = facts_of_call(call, dialect).reads_only
        if deadline is None:
            dialect.bound_statements(connection, dialect.limits.statement_timeout_seconds)
        else:
            dialect.bound_statements(connection, deadline.seconds, deadline)
        self.sent = True
        fetched = call.shape.fetch(connection.execute(statement, call.params))
        # Only a statement that left no open transaction counts as done.
        if not dialect.is_at_rest(connection._dbapi_connection.dbapi_connection):  # type: ignore[union-attr]
            raise dialect.not_at_rest(connection)
        return fetched

    def phase(self) -> Phase:
        return "statement" if self.sent else "connect"

    def drop(self) -> None:
        """Close the connection, unless it has been returned."""
        if self.connection is not None:
            discard(self.connection)

    def end(self) -> None:
        """Return the connection; a result that was not read to its end is discarded."""
        if self.connection is not None:
            self.connection.close()


def discard(connection: Connection) -> None:
    """Close *connection* for good if it is still checked out: its state is unknown."""
    if connection.closed:
        return
    try:
        if not connection.invalidated:
            connection.invalidate()
    finally:
        connection.close()
