"""Run one statement on the driver's connection itself, where that is proven to be the same as SQLAlchemy's execution.

The pool, its vetting, the dialect that sends, the observer and the border are those of the standard road. What is left
out is what SQLAlchemy makes anew for each statement: the proxy of the connection, its Connection, context and result.
When something fails they are made after all, and SQLAlchemy handles the error as it does on the standard road.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Final, NoReturn
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Row, TextClause
from sqlalchemy.engine.result import RMKeyView
from sqlalchemy.pool.base import _ConnectionFairy

from prefiq_db.call import NO_OVERRIDES, Call, Overrides
from prefiq_db.dialects.session import SESSION_KEY
from prefiq_db.engine_class import taken
from prefiq_db.execution.audience import Audience
from prefiq_db.execution.prepared import Prepared, RowFormat, prepare
from prefiq_db.execution.standard import OneShot, StandardRoad
from prefiq_db.execution.statement_facts import facts_of_call
from prefiq_db.memory import Memory
from prefiq_db.pool.checkout_deadline import checkout_by

#: Overrides that the direct road knows; with another one a call takes the standard road.
_KNOWN_OVERRIDES: Final = frozenset({"timeout", "retry", "read_only", "idempotent", "tags"})
_UNKNOWN_OVERRIDES: Final = tuple(each.name for each in fields(Overrides) if each.name not in _KNOWN_OVERRIDES)

_NO_OPTIONS: Final[Mapping[str, Any]] = {}


class DirectRoad(StandardRoad):
    """The standard road, with a shorter way for one-shots that are known to need no more.

    Attributes:
        steps_aside: every statement takes the standard road; for tests that compare both.
    """

    steps_aside = False

    def __init__(self, engine: Any, database: str, *, masked: bool = True) -> None:
        super().__init__(engine, database, masked=masked)
        #: by the text that a verb was given
        self.texts: Memory[Prepared] = Memory(1024)
        self._audience = Audience(engine)
        self._constructs: WeakKeyDictionary[Any, Prepared | None] = WeakKeyDictionary()

    def new_shot(self, call: Call) -> OneShot:
        if (
            self.steps_aside
            or (call.given is not NO_OVERRIDES and _has_unknown(call.given))
            or self._audience.is_there()
        ):
            return OneShot(self, call)
        prepared: Prepared | None = call.prepared
        if prepared is None:
            prepared = self._prepared(call)
            if prepared is None or not prepared.takes(call.params):
                return OneShot(self, call)
        return DirectShot(self, call, prepared)

    def _prepared(self, call: Call) -> Prepared | None:
        statement: Any = call.statement
        if call.text is not None and type(statement) is TextClause:
            made = prepare(statement, call.params, self.engine, weak=False)
            if made is not None:
                made.statement = statement
                self.texts.keep(call.text, made, call.text, made.sql)
            return made
        known = self._constructs.get(statement, _UNSEEN)
        if known is _UNSEEN or (known is not None and known.compiled() is None):  # type: ignore[attr-defined]
            self._constructs[statement] = known = prepare(statement, call.params, self.engine, weak=True)
        return known  # type: ignore[return-value]


_UNSEEN: Final = object()


def _has_unknown(given: Overrides) -> bool:
    return any(getattr(given, name) is not None for name in _UNKNOWN_OVERRIDES)


class DirectShot(OneShot):
    """One statement on the driver's connection.

    The dialect, the observer and the shapes get this object where they get SQLAlchemy's connection, execution context
    or result on the standard road; it has what they use of them.
    """

    __slots__ = (
        "_connection_record",
        "compiled",
        "cursor",
        "dbapi_connection",
        "format",
        "is_done",
        "prepared",
        "rowcount",
    )

    executemany: ClassVar[bool] = False
    is_crud: ClassVar[bool] = False
    isddl: ClassVar[bool] = False
    _is_server_side: ClassVar[bool] = False
    execution_options: ClassVar[Mapping[str, Any]] = _NO_OPTIONS

    def __init__(self, road: StandardRoad, call: Call, prepared: Prepared) -> None:
        self.road = road
        self.call = call
        self.connection = None
        self.sent = False
        self.prepared = prepared
        self.compiled: Any = prepared.compiled()
        self._connection_record: Any = None
        self.dbapi_connection: Any = None
        self.cursor: Any = None
        self.format: RowFormat | None = None
        self.is_done = False
        self.rowcount = -1

    def go(self) -> Any:
        road, call, prepared = self.road, self.call, self.prepared
        deadline = call.deadline
        if deadline is None:
            self._connection_record = record = taken(road.engine)
        else:
            with checkout_by(deadline):
                self._connection_record = record = taken(road.engine)
        self.dbapi_connection = raw = record.dbapi_connection
        dialect, limit = road.dialect, road.dialect.limits.statement_timeout_seconds
        state = record.info[SESSION_KEY]
        checkout = state.checkout
        checkout.one_shot = True
        state.statement.call = call
        checkout.retry_number = call.attempts - 1
        if dialect.has_sockets and dialect.is_unheard(raw):
            checkout.repeatable = facts_of_call(call, dialect).reads_only
        dialect.bound_statements(self, limit if deadline is None else deadline.seconds, deadline)
        self.sent = True
        parameters = self._bound(call.params)
        cursor = self.cursor
        try:
            dialect.do_execute(cursor, prepared.sql, parameters, self)
            columns = dialect.columns_of(cursor)
            if columns is None:
                self.rowcount = cursor.rowcount
                cursor.close()
            else:
                self.format = prepared.format_of(columns, lambda: cursor.description, call.statement, dialect)
        except BaseException as error:  # noqa: BLE001 - SQLAlchemy decides how to raise it
            self._handle_dbapi_exception(error, prepared.sql, parameters, cursor, self)
        fetched = call.shape.fetch(self)  # type: ignore[arg-type]
        # Only a statement that left no open transaction counts as done.
        if not dialect.is_at_rest(raw):
            raise dialect.not_at_rest(self)
        self.is_done = True
        return fetched

    def _bound(self, params: Any) -> Any:
        """Return *params* for the driver, and make the cursor that takes them."""
        try:
            parameters = self.prepared.bound(params)
            self.cursor = self.dbapi_connection.cursor()
        except BaseException as error:  # noqa: BLE001 - likewise
            self._handle_dbapi_exception(error, self.prepared.sql, [params], None, None)
        return parameters

    # --- the end -----------------------------------------------------------------------------------

    def drop(self) -> None:
        record = self._connection_record
        if self.connection is None and record is not None and not record.going_home and record.place is not None:
            self._connect()
        super().drop()

    def end(self) -> None:
        record = self._connection_record
        if self.connection is None and record is not None and not self.is_done:
            self._connect()  # whatever it left behind, SQLAlchemy cleans up
        if self.connection is not None:
            super().end()
        elif record is not None:
            record.pool.give_back(record)

    def _connect(self) -> Connection:
        """Return SQLAlchemy's connection over the driver's, as on the standard road."""
        connection = self.connection
        if connection is None:
            record = self._connection_record
            proxied = _ConnectionFairy(record.pool, self.dbapi_connection, record, echo=False)
            record.fairy_ref = weakref.ref(proxied, _ignore)
            proxied._counter = 1
            self.connection = connection = Connection(self.road.engine, proxied, _allow_autobegin=False)
        return connection

    def _handle_dbapi_exception(self, error: BaseException, *about: Any) -> NoReturn:
        """Let SQLAlchemy handle *error*: it wraps it, tells the listeners, and closes a connection that is lost."""
        self._connect()._handle_dbapi_exception(error, *about)

    # --- what others use of SQLAlchemy's objects ---------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the driver knows that its connection is closed; SQLAlchemy's dialect of psycopg asks its proxy."""
        return bool(self.dbapi_connection.closed)

    @property
    def broken(self) -> bool:
        """Whether psycopg knows that its connection is lost."""
        return bool(self.dbapi_connection.broken)

    def handle_dbapi_exception(self, error: BaseException) -> None:
        """Do nothing, as SQLAlchemy's own context."""

    @property
    def _dbapi_connection(self) -> DirectShot:
        return self

    @property
    def root_connection(self) -> DirectShot:
        return self

    @property
    def context(self) -> DirectShot:
        return self

    @property
    def dialect(self) -> Any:
        return self.road.dialect

    @property
    def statement(self) -> str:
        return self.prepared.sql

    @property
    def compiled_parameters(self) -> list[dict[str, Any] | None]:
        return [self.prepared.named(self.call.params or {})]

    # --- the result --------------------------------------------------------------------------------

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


def _ignore(reference: object) -> None:
    """Do nothing; see SQLAlchemy's ``_NOOP_WEAKREF_CALLBACK`` for why its proxy's reference needs a callback."""
