"""Run one statement on the driver's connection itself, where that is proven to be the same as SQLAlchemy's execution.

The pool, its vetting, the dialect that sends, the observer and the border are those of the standard road. What is left
out is what SQLAlchemy makes anew for each statement: the proxy of the connection, its Connection, context and result.
When something fails they are made after all, and SQLAlchemy handles the error as it does on the standard road.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Final, NoReturn, TypeVar
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Connection, Row, TextClause
from sqlalchemy.engine.result import RMKeyView

from prefiq_db.call import NO_OVERRIDES, Call, Overrides
from prefiq_db.deadline import Deadline
from prefiq_db.dialects.session import SESSION_KEY, SessionState
from prefiq_db.engine_class import taken
from prefiq_db.errors import ReadOnlyError, StatementCancelledError, UsageError
from prefiq_db.execution.inserted_keys import CURSOR, InsertedKey
from prefiq_db.execution.one_shot import READING, SENDING, Flight, ShortRoad
from prefiq_db.execution.pinned import Pinned
from prefiq_db.execution.pool_proxy import OwnProxy
from prefiq_db.execution.prepared import Prepared, RowFormat, describe, prepare
from prefiq_db.execution.standard import OneShot, Shot, StandardRoad, discard
from prefiq_db.execution.statement_facts import facts_of_call
from prefiq_db.pool.checkout_deadline import checkout_by
from prefiq_db.translation.classify import Phase

#: Overrides that the direct road knows; with another one a call takes the standard road.
_KNOWN_OVERRIDES: Final = frozenset({"timeout", "retry", "read_only", "idempotent", "tags"})
_UNKNOWN_OVERRIDES: Final = tuple(each.name for each in fields(Overrides) if each.name not in _KNOWN_OVERRIDES)

S = TypeVar("S", bound="DirectShot")

_NO_OPTIONS: Final[Mapping[str, Any]] = {}


class DirectRoad(ShortRoad):
    """The standard road, with a shorter way for statements that are known to need no more."""

    def __init__(self, engine: Any, database: str, *, masked: bool = True) -> None:
        super().__init__(engine, database, masked=masked)
        self._constructs: WeakKeyDictionary[Any, Prepared | None] = WeakKeyDictionary()
        self.seen = self._constructs.data.get  # type: ignore[attr-defined]  # get() of its own costs as much as a call

    def new_shot(self, call: Call) -> Shot:
        if call.begun is not None:
            begun: Shot = call.begun
            call.begun = None
            return begun
        return self.direct_shot(call, DirectShot) or OneShot(self, call)

    def direct_shot(self, call: Call, kind: type[S]) -> S | None:
        """Return a shot of this *kind*; ``None``: the call takes the standard road."""
        prepared = self._known(call)
        if prepared is None or not prepared.stands_alone:
            return None
        # Another thread may have evicted it just now.
        compiled = prepared.compiled()
        return None if compiled is None else kind(self, call, prepared, compiled)

    # --- in a transaction ---------------------------------------------------------------------------

    def is_watched(self) -> bool:
        return self.steps_aside or self._audience.is_there()

    def new_pinned(self, deadline: Deadline | None = None, *, whole: bool = False) -> Pinned:
        """Return what takes a connection for a transaction; it has taken one already, if others want to see that.

        Args:
            deadline: of that checkout.
            whole: with SQLAlchemy's Connection from the beginning.

        Raises:
            PoolTimeoutError: as of :meth:`checkout`.
        """
        return Pinned(self, self.checkout(deadline) if whole or self.is_watched() else None)

    def run_pinned(self, pinned: Pinned, call: Call, seconds: float, deadline: Deadline | None) -> Any:
        """Carry out *call* in the transaction on *pinned*, as :meth:`run` does."""
        if pinned.view is None and not call.last and type(call.params) is not list:
            prepared = self._known(call)
            compiled = None if prepared is None else prepared.compiled()
            if prepared is not None and compiled is not None:
                statement = PinnedStatement(self, call, prepared, compiled, pinned)  # type: ignore[arg-type] # see there
                statement._dbapi_connection, statement.seconds, statement.deadline = pinned, seconds, deadline
                return self.cross_pinned(statement)
        return self.run(pinned.connection, call, seconds, deadline)

    def cross_pinned(self, statement: PinnedStatement) -> Any:
        """Return what *statement* fetches, or raise one of our errors."""
        pinned = statement._dbapi_connection
        try:
            return self.border.cross(statement.go)
        except ReadOnlyError as error:
            self._note_read_only(pinned.connection, error)
            raise
        except StatementCancelledError:
            interruption = self._interruption_of(pinned.connection)
            if interruption is None:
                raise
        raise interruption

    def send(self, connection: Connection, call: Call, seconds: float, deadline: Deadline | None) -> Any:
        prepared = self._known(call) if self._is_plain(connection, call) else None
        compiled = None if prepared is None else prepared.compiled()
        if prepared is None or compiled is None:
            return super().send(connection, call, seconds, deadline)
        self.state(connection).statement.call = call
        self.dialect.bound_statements(connection, seconds, deadline)
        ours: Any = connection
        ours.begin_waits = False  # nobody sees the cursor before BEGIN and the statement are sent
        raw = ours._dbapi_connection.dbapi_connection
        return DirectStatement(self, call, prepared, compiled, connection).carried_out(raw)

    def shot_of(self, flight: Flight) -> DirectShot:
        return _of_the_short_way(DirectShot, self, flight)

    def broken_shot(self, flight: Flight, step: int, failure: BaseException | None) -> BrokenShot:
        shot = _of_the_short_way(BrokenShot, self, flight)
        shot.step, shot.failure, shot.sent = step, failure, step >= SENDING
        return shot

    def _known(self, call: Call) -> Prepared | None:
        """Return what is known of the statement of *call*; ``None``: it takes the standard road."""
        is_strange = call.given is not NO_OVERRIDES and _has_unknown(call.given)
        if self.steps_aside or is_strange or self._audience.is_there():
            return None
        known: Prepared | None = call.prepared
        if known is None:
            known = self._prepared(call)
            if known is None:
                return None
            if not known.takes(call.params):
                if known.unmissed:
                    self._refuse_missing(known, call.params or {})
                return None
        return known

    def _refuse_missing(self, known: Prepared, params: Mapping[str, Any]) -> None:
        """Raise if *params* lack a value that SQLAlchemy would not miss, but take for NULL."""
        missing = sorted(known.unmissed - params.keys())
        if missing:
            raise UsageError(
                f"database {self.border.database!r}: params: no value for the bind {missing[0]!r} of the statement",
                database=self.border.database,
            )

    def _prepared(self, call: Call) -> Prepared | None:
        statement: Any = call.statement
        if call.text is not None and type(statement) is TextClause:
            kept = self.texts.kept.get(call.text)
            if kept is not None:  # its values had to be looked at, as one of another type than the usual
                return kept
            made = prepare(statement, call.params, self.engine, weak=False)
            if made is not None:
                made.statement = statement
                self.texts.keep(call.text, made, call.text, made.sql)
            return made
        return self.construct(statement, call.params)

    def known_construct(self, statement: Any, params: Mapping[str, Any] | None) -> Prepared | None:
        """Return what is known of a construct; ``None`` if it takes the standard road, or asks for other values."""
        known = self.seen(ref(statement))
        if known is None or not _asks_for(known, params):
            known = self.construct(statement, params)
        return known if known is not None and _asks_for(known, params) else None

    def construct(self, statement: Any, params: Mapping[str, Any] | None) -> Prepared | None:
        found: Any = self._constructs.get(statement, _UNSEEN)
        if found is _UNSEEN or (
            # A write is another statement for values of other names.
            found is not None and (found.compiled() is None or (found.is_write and not found.takes(params)))
        ):
            self._constructs[statement] = found = prepare(statement, params, self.engine, weak=True)
        known: Prepared | None = found
        return known

    def _is_plain(self, connection: Any, call: Call) -> bool:
        """Return whether SQLAlchemy's *connection*, in a transaction, would execute the statement and nothing more."""
        transaction, nested = connection._transaction, connection._nested_transaction
        return (
            not call.last
            and not isinstance(call.params, list)  # many rows
            and not (connection._has_events and self._audience.hears(connection))
            and connection._execution_options is self.engine._execution_options  # not those of another engine, either
            and connection._trans_context_manager is None
            and transaction is not None
            and transaction.is_active
            and (nested is None or nested.is_active)
        )


def _asks_for(known: Prepared, params: Mapping[str, Any] | None) -> bool:
    return params.keys() == known.asked if params else not known.asked


_UNSEEN: Final = object()


def _has_unknown(given: Overrides) -> bool:
    return any(getattr(given, name) is not None for name in _UNKNOWN_OVERRIDES)


class DirectStatement:
    """One statement on the driver's connection.

    The dialect, the observer and the shapes get this object where they get SQLAlchemy's execution context or its result
    on the standard road; it has what they use of them.

    Attributes:
        connection: SQLAlchemy's; ``None`` outside a transaction, as long as nothing fails.
    """

    __slots__ = (
        "call", "compiled", "connection", "cursor", "format", "key_reply", "parameters", "prepared", "road", "rowcount",
    )  # fmt: skip

    executemany: ClassVar[bool] = False
    is_crud: ClassVar[bool] = False
    isddl: ClassVar[bool] = False
    carrier: ClassVar[None] = None
    inserted_row_count: ClassVar[None] = None
    _is_server_side: ClassVar[bool] = False
    execution_options: ClassVar[Mapping[str, Any]] = _NO_OPTIONS

    def __init__(
        self, road: StandardRoad, call: Call, prepared: Prepared, compiled: Any, connection: Connection | None = None
    ) -> None:
        self.road = road
        self.call = call
        self.prepared = prepared
        self.compiled = compiled
        self.connection = connection
        self.cursor: Any = None
        self.format: RowFormat | None = None
        self.rowcount = -1

    def carried_out(self, connection: Any) -> Any:
        """Send the statement on the driver's *connection* and return what the shape fetches."""
        call, prepared, dialect = self.call, self.prepared, self.road.dialect
        try:
            parameters = prepared.bound(call.params)
            self.parameters = [parameters]
            cursor = dialect.new_cursor(connection, self.compiled) if dialect.waits_once else connection.cursor()
            self.cursor = cursor
        except BaseException as error:  # noqa: BLE001 - SQLAlchemy decides how to raise it
            self._handle_dbapi_exception(error, prepared.sql, [call.params], None, None)
        try:
            dialect.do_execute(cursor, prepared.sql, parameters, self)
            self._note_columns(dialect.columns_of(cursor))
        except BaseException as error:  # noqa: BLE001 - likewise
            self._handle_dbapi_exception(error, prepared.sql, parameters, cursor, self)
        return call.shape.fetch(self)  # type: ignore[arg-type]  # it has what shapes use of SQLAlchemy's result

    def _note_columns(self, columns: Any) -> None:
        cursor, key = self.cursor, self.prepared.key
        if key is not None:
            self._note_key(key, columns)
        elif columns is None:
            self.rowcount = cursor.rowcount
            cursor.close()
        else:
            statement = self.call.statement
            self.format = self.prepared.format_of(columns, lambda: cursor.description, statement, self.road.dialect)

    def _note_key(self, key: InsertedKey, columns: Any) -> None:
        """Note what the reply tells of the key of an inserted row; the rows of an added RETURNING are nobody else's."""
        cursor = self.cursor
        self.rowcount = cursor.rowcount
        self.key_reply = cursor.lastrowid if key.source is CURSOR else None
        if columns is None:
            cursor.close()
            return
        known = key.format
        if known is None:
            statement, dialect = self.call.statement, self.road.dialect
            key.format = known = describe(self.compiled, columns, cursor.description, statement, dialect)
        rows = self._read(cursor.fetchall, ends=True)
        if rows:
            self.key_reply = Row(known.metadata, known.processors, known.key_to_index, rows[0])

    def _handle_dbapi_exception(self, error: BaseException, *about: Any) -> NoReturn:
        """Let SQLAlchemy handle *error*: it wraps it, tells the listeners, and closes a connection that is lost."""
        assert self.connection is not None, "in a transaction there is one"
        self.connection._handle_dbapi_exception(error, *about)

    # --- what others use of SQLAlchemy's objects ---------------------------------------------------

    def handle_dbapi_exception(self, error: BaseException) -> None:
        """Do nothing, as SQLAlchemy's own context."""

    @property
    def _dbapi_connection(self) -> Any:
        connection: Any = self.connection
        return connection._dbapi_connection

    @property
    def root_connection(self) -> Any:
        return self.connection

    @property
    def context(self) -> DirectStatement:
        return self

    @property
    def dialect(self) -> Any:
        return self.road.dialect

    @property
    def statement(self) -> str:
        return self.prepared.sql

    @property
    def compiled_parameters(self) -> list[Mapping[str, Any]]:
        prepared, params = self.prepared, self.call.params or {}
        is_named = prepared.keys is not None and len(params) < 2  # more are told in the statement's order
        return [params if is_named else prepared.named(params)]

    # --- the result --------------------------------------------------------------------------------

    @property
    def isinsert(self) -> bool:
        return self.prepared.key is not None

    @property
    def inserted_primary_key(self) -> Any:
        """The key of the row that an INSERT of Core added, as a row of its columns; ``None``: there is none."""
        key = self.prepared.key
        assert key is not None, "asked for of an INSERT only"
        return key.found(self.compiled, self.prepared.named(self.call.params), self.key_reply)

    @property
    def returns_rows(self) -> bool:
        return self.format is not None

    @property
    def _format(self) -> RowFormat:
        assert self.format is not None, "asked for without rows"
        return self.format

    def keys(self) -> RMKeyView:
        return RMKeyView(self._format.metadata)

    def all(self) -> list[Row[Any]]:
        """Return all rows."""
        known = self._format
        metadata, processors, key_to_index = known.metadata, known.processors, known.key_to_index
        return [Row(metadata, processors, key_to_index, row) for row in self._read(self.cursor.fetchall, ends=True)]

    def first(self) -> Row[Any] | None:
        """Return the first row, or ``None``."""
        row = self._read(self.cursor.fetchone, ends=True)
        return None if row is None else self._made(row)

    def fetchmany(self, size: int) -> list[Row[Any]]:
        """Return at most *size* rows."""
        return [self._made(row) for row in self._read(self.cursor.fetchmany, size)]

    def close(self) -> None:
        """Read no more."""
        self.cursor.close()

    def _made(self, row: Sequence[Any]) -> Row[Any]:
        known = self._format
        return Row(known.metadata, known.processors, known.key_to_index, row)

    def _read(self, fetch: Any, *size: int, ends: bool = False) -> Any:
        try:
            rows = fetch(*size)
            if ends:
                self.cursor.close()
        except BaseException as error:  # noqa: BLE001 - SQLAlchemy decides how to raise it
            self._handle_dbapi_exception(error, None, None, self.cursor, self)
        return rows


class PinnedStatement(DirectStatement):
    """One statement of a transaction whose connection nobody has seen as SQLAlchemy's.

    Attributes:
        connection: the :class:`Pinned`, which has what is used of SQLAlchemy's.
        seconds: how long it may take.
        deadline: that of the transaction.
    """

    __slots__ = ("_dbapi_connection", "deadline", "seconds")

    _dbapi_connection: Pinned
    seconds: float
    deadline: Deadline | None

    def go(self) -> Any:
        """Return what the shape fetches."""
        pinned = self._dbapi_connection
        pinned.state.statement.call = self.call
        self.road.dialect.bound_statements(self, self.seconds, self.deadline)
        return self.carried_out(pinned.dbapi_connection)


class DirectShot(DirectStatement):
    """One statement outside a transaction, from the pool and back; also what SQLAlchemy's proxy is to our dialects."""

    __slots__ = ("_connection_record", "_returns", "dbapi_connection", "is_done", "sent")

    def __init__(self, road: StandardRoad, call: Call, prepared: Prepared, compiled: Any) -> None:
        super().__init__(road, call, prepared, compiled)
        self._connection_record: Any = None
        self.dbapi_connection: Any = None
        self.is_done = self.sent = False

    def phase(self) -> Phase:
        return "statement" if self.sent else "connect"

    def go(self) -> Any:
        deadline = self.call.deadline
        if deadline is None:
            self._hold(taken(self.road.engine))
        else:
            with checkout_by(deadline):
                self._hold(taken(self.road.engine))
        return self._go_on()

    def _hold(self, record: Any) -> SessionState:
        """Keep the connection that was taken from the pool, and note what it is taken for."""
        self._returns = record.returns
        self._connection_record = record
        self.dbapi_connection = record.dbapi_connection
        state: SessionState = record.info[SESSION_KEY]
        state.checkout.one_shot = True
        state.statement.call = self.call
        return state

    def _go_on(self) -> Any:
        """Send the statement on the connection that is held, and return what the shape fetches."""
        call, dialect, raw = self.call, self.road.dialect, self.dbapi_connection
        deadline, limit = call.deadline, dialect.limits.statement_timeout_seconds
        checkout = self._connection_record.info[SESSION_KEY].checkout
        checkout.retry_number = call.attempts - 1
        if dialect.has_sockets and dialect.is_unheard(raw):
            checkout.repeatable = facts_of_call(call, dialect).reads_only
        dialect.bound_statements(self, limit if deadline is None else deadline.seconds, deadline)
        self.sent = True
        fetched = self.carried_out(raw)
        # Only a statement that left no open transaction counts as done.
        if not dialect.is_at_rest(raw):
            raise dialect.not_at_rest(self)
        self.is_done = True
        return fetched

    def read(self, columns: Any) -> Any:
        """Return what the shape reads of a result with these *columns*; ``None``: it has no rows."""
        self._note_columns(columns)
        return self.call.shape.fetch(self)  # type: ignore[arg-type]  # as in carried_out()

    def drop(self) -> None:
        """Close the connection, unless it has been returned."""
        record = self._connection_record
        is_ours = record is not None and record.returns == self._returns and record.place is not None
        if self.connection is None and is_ours:
            self._connect()
        if self.connection is not None:
            discard(self.connection)

    def end(self) -> None:
        """Return the connection; a result that was not read to its end is discarded."""
        record = self._connection_record
        if self.connection is None and record is not None and not self.is_done:
            self._connect()  # whatever it left behind, SQLAlchemy cleans up
        if self.connection is not None:
            self.connection.close()
        elif record is not None:
            record.pool.give_back(record)

    def _connect(self) -> Connection:
        """Return SQLAlchemy's connection over the driver's, as on the standard road."""
        connection = self.connection
        if connection is None:
            record = self._connection_record
            self.connection = connection = Connection(self.road.engine, OwnProxy(record), _allow_autobegin=False)
        return connection

    def _handle_dbapi_exception(self, error: BaseException, *about: Any) -> NoReturn:
        self._connect()._handle_dbapi_exception(error, *about)

    @property
    def _dbapi_connection(self) -> DirectShot:
        return self

    @property
    def root_connection(self) -> DirectShot:
        return self

    @property
    def closed(self) -> bool:
        """Whether the driver knows that its connection is closed; SQLAlchemy's dialect of psycopg asks its proxy."""
        return bool(self.dbapi_connection.closed)

    @property
    def broken(self) -> bool:
        """Whether psycopg knows that its connection is lost."""
        return bool(self.dbapi_connection.broken)


class BrokenShot(DirectShot):
    """A shot that was broken off on the short way, after it had taken a connection; flying it ends it.

    Attributes:
        step: what was done last; see :mod:`prefiq_db.execution.one_shot`.
        failure: what broke it off; ``None``: it left a transaction open.
    """

    __slots__ = ("failure", "step")

    failure: BaseException | None
    step: int

    def go(self) -> NoReturn:
        failure, self.failure = self.failure, None
        if failure is None:
            raise self.road.dialect.not_at_rest(self)
        try:
            if self.step == SENDING:
                failure = self._judged(failure)
            raise failure
        except BaseException as error:
            if self.step == SENDING:
                parameters, cursor = self.parameters[0], self.cursor
                if parameters is None or cursor is None:
                    self._handle_dbapi_exception(error, self.prepared.sql, [self.call.params], None, None)
                self._handle_dbapi_exception(error, self.prepared.sql, parameters, cursor, self)
            if self.step == READING:
                self._handle_dbapi_exception(error, None, None, self.cursor, self)
            raise
        finally:
            del failure

    def _judged(self, failure: BaseException) -> BaseException:
        """Note *failure* as the statement's, if it was sent; return what is to be raised for it."""
        dialect: Any = self.road.dialect
        record = self._connection_record
        if record is None:
            return failure
        state, observer = record.info[SESSION_KEY], dialect.observer
        note = state.statement
        if note.sent_at and observer is not None:
            sent_at, note.sent_at = note.sent_at, 0.0
            observer.note_failure(self.prepared.noted, failure, sent_at, self.parameters[0], self, 1, state)
        return dialect.settle(self.dbapi_connection, failure) if isinstance(failure, Exception) else failure


def _of_the_short_way(kind: type[S], road: StandardRoad, flight: Flight) -> S:
    """Return a shot of *kind* that has come as far as *flight*."""
    prepared, record = flight.prepared, flight.record
    call = Call("statement", prepared.executed(flight.statement), flight.params, flight.shape).told_as(flight.told)
    shot = kind(road, call, prepared, prepared.compiled())
    shot.cursor, shot.parameters = flight.cursor, [flight.parameters]
    if record is not None:
        record.info[SESSION_KEY].statement.call = call
        shot._connection_record, shot._returns, shot.dbapi_connection = record, record.returns, record.dbapi_connection
    return shot
