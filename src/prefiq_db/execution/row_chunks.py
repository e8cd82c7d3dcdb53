"""One chunk of a bulk insert as something that SQLAlchemy executes: its rows are bound once, whatever is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Executable
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import ExecuteStyle
from sqlalchemy.sql.elements import ClauseElement

from prefiq_db.call import Shape
from prefiq_db.dialects.bulk import Carrier, Rows, converted
from prefiq_db.errors import UsageError
from prefiq_db.execution.bound_rows import BoundInsert
from prefiq_db.execution.given_rows import Values

#: Chooses who sends the bound rows.
Choose = Callable[[Rows, Any], Carrier]


class RowChunk:
    """Rows of one chunk: as given, complete with defaults, and as the driver gets them.

    Attributes:
        first_row: the index of its first row among all given rows.
    """

    def __init__(self, bound: BoundInsert, given: list[Values], first_row: int) -> None:
        self.bound = bound
        self.given = given
        self.first_row = first_row
        self.sendable: Any = None
        self._complete: list[Values] | None = None

    def __len__(self) -> int:
        return len(self.given)

    def part(self, start: int, end: int) -> RowChunk:
        """Return some of the rows, converted already if these are."""
        part = RowChunk(self.bound, self.given[start:end], self.first_row + start)
        part._complete = None if self._complete is None else self._complete[start:end]
        part.sendable = None if self.sendable is None else self.sendable[start:end]
        return part

    def complete(self, connection: Any) -> list[Values]:
        """Return the rows with the defaults that Python makes; made once, as they may be counters."""
        if self._complete is None:
            self._complete = self.bound.complete(self.given, connection)
        return self._complete

    def as_params(self) -> list[dict[str, Any]]:
        """Return the rows as parameters for SQLAlchemy's own ``insert()``."""
        if self._complete is not None:
            return [dict(zip(self.bound.keys, row, strict=True)) for row in self._complete]
        return [dict(zip(self.bound.given_keys, row, strict=True)) for row in self.given]


class SendChunk(ClauseElement, Executable):
    """Sends a chunk through the carrier that *choose* returns, inside SQLAlchemy's own handling of a statement."""

    inherit_cache = False

    def __init__(self, chunk: RowChunk, choose: Choose) -> None:
        self.chunk = chunk
        self.choose = choose
        self.carrier: Carrier | None = None

    def _execute_on_connection(self, connection: Any, distilled_params: Any, execution_options: Any) -> Any:
        del distilled_params
        text = self.chunk.bound.compiled.string
        return connection._execute_context(connection.dialect, self._context, text, None, execution_options)

    def _context(self, dialect: Any, connection: Any, dbapi_connection: Any, execution_options: Any) -> Any:
        """Return the execution context; whatever a type raises here is handled as in ``insert()``."""
        chunk, bound = self.chunk, self.chunk.bound
        complete = chunk.complete(connection)
        rows = bound.bind(complete) if chunk.sendable is None else chunk.sendable
        made: DefaultDialect = dialect
        context: Any = made.execution_ctx_cls._init_compiled(
            dialect,
            connection,
            dbapi_connection,
            execution_options,
            bound.compiled,
            [dict(zip(bound.keys, complete[0], strict=True))],
            bound.statement,
            None,
        )
        if chunk.sendable is None:
            chunk.sendable = rows = self._converted(dialect, rows, context)
        self.carrier = context.carrier = self.choose(rows, context)
        context.statement = context.unicode_statement = context.carrier.text
        context.parameters, context.execute_style = rows, ExecuteStyle.EXECUTEMANY
        return context

    def _converted(self, dialect: Any, rows: Rows, context: Any) -> Any:
        text = self.chunk.bound.compiled.string
        try:
            return converted(dialect.values, rows, text, context, dialect.knows)
        except UsageError:
            for place, row in enumerate(rows):
                self.chunk.bound.failed_at = (place, None)
                dialect.values.one(row, text, context, dialect.knows)
            raise


#: The carrier that sent the chunk.
CARRIER = Shape(lambda result: result.context.carrier)  # type: ignore[attr-defined]  # set by SendChunk


class Counts:
    """What happened to the rows so far; a count that one chunk doesn't know, nobody knows."""

    def __init__(self) -> None:
        self.inserted: int | None = 0
        self.updated: int | None = 0
        self.ignored: int | None = 0

    def add(self, carrier: Carrier | Sent) -> None:
        for name in ("inserted", "updated", "ignored"):
            before, more = getattr(self, name), getattr(carrier, name)
            setattr(self, name, None if before is None or more is None else before + more)


@dataclass(frozen=True, slots=True)
class Sent:
    """What happened to rows that were sent in several parts, or by SQLAlchemy."""

    inserted: int | None
    updated: int | None
    ignored: int | None
