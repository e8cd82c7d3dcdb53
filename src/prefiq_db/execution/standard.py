"""The standard road: SQLAlchemy's Connection, with our border around every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Engine, Executable, RootTransaction, TextClause
from sqlalchemy.engine import NestedTransaction

from prefiq_db.calls import Call
from prefiq_db.dialects.base import PrefiqDialect, SessionState
from prefiq_db.errors import PoolTimeoutError, UsageError
from prefiq_db.execution.border import Border, Phase
from prefiq_db.execution.shapes import Shape
from prefiq_db.origin import application_line
from prefiq_db.pool import checkout_within

Params = Mapping[str, Any] | None


class StandardRoad:
    """Checks out connections and runs statements, transactions and savepoints on them."""

    def __init__(self, engine: Engine, database: str, *, masked: bool = True) -> None:
        self.engine = engine
        self.dialect: PrefiqDialect = engine.dialect  # type: ignore[assignment]
        self.border = Border(database, self.dialect.label, masked=masked)

    def checkout(self, within_seconds: float | None = None, call: Call | None = None) -> Connection:
        """Return a connection from the pool, or a new one; nothing was sent on it yet.

        Raises:
            PoolTimeoutError: when none came back in time; its message names who has them.
        """

        def connect() -> Connection:
            with checkout_within(within_seconds):
                return self.engine.connect()

        try:
            connection = self.border.cross(connect, "connect")
        except PoolTimeoutError as error:
            if self.dialect.watcher is not None:
                error.args = (f"{error}\nwho has them:\n{self.dialect.watcher.table()}",)
            raise
        state = self.state(connection)
        state.call = call
        state.line = application_line() if call is None else call.line
        return connection

    def state(self, connection: Connection) -> SessionState:
        return self.dialect.session_of(connection.connection)

    def run(
        self,
        connection: Connection,
        statement: Executable,
        params: Params | Sequence[Mapping[str, Any]],
        shape: Shape,
        timeout_seconds: float,
        call: Call | None = None,
    ) -> Any:
        """Execute *statement* and return what *shape* fetches; the caller finishes it."""
        parameters = self._adapted(statement, params)

        # For a one-shot this belongs to getting a connection: nothing of the statement was sent yet.
        state = self.state(connection)
        state.call = call
        preparing: Phase = "connect" if state.one_shot else "statement"
        self.border.cross(lambda: self.dialect.bound_statements(connection, timeout_seconds), preparing)

        def send() -> Any:
            result = connection.execute(statement, parameters)
            try:
                return shape.fetch(result)
            finally:
                result.close()

        return self.border.cross(send, timed_out=lambda: self.dialect.timed_out(connection))

    def begin(self, connection: Connection) -> RootTransaction:
        return self.border.cross(connection.begin)

    def begin_nested(self, connection: Connection) -> NestedTransaction:
        return self.border.cross(connection.begin_nested)

    def _adapted(self, statement: Executable, params: Any) -> Any:
        """Return *params* with the values that the driver doesn't take in text statements made into what it takes.

        A Core construct knows its columns' types; text doesn't, and sqlite3 refuses a Decimal, asyncmy a dict.
        """
        adapters = self.dialect.adapters
        if not params or not adapters or not isinstance(statement, TextClause):
            return params
        if isinstance(params, Mapping):
            return _adapt(params, adapters)
        return [_adapt(row, adapters) for row in params]


def _adapt(row: Mapping[str, Any], adapters: Mapping[type, Callable[[Any], Any]]) -> Mapping[str, Any]:
    if _TAKEN_BY_ALL.issuperset(map(type, row.values())):
        return row
    return {name: _adapted_value(value, adapters) for name, value in row.items()}


_TAKEN_BY_ALL: Final = frozenset({str, int, float, bool, bytes, type(None)})


def _adapted_value(value: Any, adapters: Mapping[type, Callable[[Any], Any]]) -> Any:
    for kind in type(value).__mro__:  # an OrderedDict is a dict to us, and a pendulum.DateTime a datetime
        if kind in adapters:
            return adapters[kind](value)
    return value


def checked_params(params: Any) -> Params:
    """Return *params*, or raise if they aren't a mapping from bind name to value."""
    if params is None or isinstance(params, Mapping):
        return params
    raise UsageError(
        f"params: expected a mapping of bind names to values, not {type(params).__name__}; "
        "for many rows use execute_many"
    )
