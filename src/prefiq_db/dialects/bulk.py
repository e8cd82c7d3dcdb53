"""How many rows are inserted at once: what a dialect is told of the insert, and the parts that send a chunk of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, ClassVar, Literal

import sqlalchemy as sa
from sqlalchemy import Column, Insert, Table
from sqlalchemy.sql.sqltypes import _AbstractInterval

from prefiq_db.dialects.values import Values

Rows = Sequence[tuple[Any, ...]]
OnConflict = Literal["error", "ignore", "update"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkInsert:
    """One call of ``bulk_insert()``, as far as all its chunks have it in common.

    Attributes:
        table: where the rows go.
        columns: the columns that get a value, in the order of each row.
        on_conflict: what happens to a row whose unique key the table has already.
        key: with ``"update"`` the columns that find the row to update.
        compiled: the INSERT of one row, as SQLAlchemy compiled it.
        number: tells the temporary objects of one call from another's.
        stored: the table as the database describes it, if the dialect asks for it; ``None``: that is unknown.
    """

    table: Table
    columns: tuple[Column[Any], ...]
    on_conflict: OnConflict
    key: tuple[Column[Any], ...]
    compiled: Any
    number: int
    stored: Table | None = None
    #: what the dialect remembers from chunk to chunk, such as a road that the server refused
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def updated(self) -> tuple[Column[Any], ...]:
        """The columns that an update changes."""
        return tuple(column for column in self.columns if column not in self.key)

    def stored_columns(self) -> list[Column[Any] | None]:
        """Return each of ``columns`` as the database describes it; ``None`` for one that we don't know."""
        known = {} if self.stored is None else {column.name: column for column in self.stored.c}
        return [known.get(str(column.name)) for column in self.columns]


class Carrier:
    """Sends one chunk of rows, which the values' table of the dialect has converted already.

    Attributes:
        text: the statement, as events and logs show it.
        inserted, updated, ignored: how many rows, after ``send()``; ``None`` if the server didn't tell.
        failed_at: after an error, the index of the row that caused it; ``None`` if that is unknown.
        failed_column: likewise the column.
        is_in_doubt: the server took the rows but had something to say about them: undo it and use ``insert()``.
    """

    #: whether an error is what ``insert()`` would raise for the row, too
    is_sure: ClassVar[bool] = False

    def __init__(self, insert: BulkInsert, text: str) -> None:
        self.insert = insert
        self.text = text
        self.inserted: int | None = None
        self.updated: int | None = None
        self.ignored: int | None = None
        self.failed_at: int | None = None
        self.failed_column: str | None = None
        self.is_in_doubt = False

    def send(self, cursor: Any, statement: str, rows: Rows, context: Any) -> None:
        raise NotImplementedError

    def count(self, row_count: int, changed: int | None) -> None:
        """Note what happened to *row_count* rows, of which the server says that it inserted or changed *changed*."""
        insert = self.insert
        if insert.on_conflict == "error":
            self.inserted, self.updated, self.ignored = row_count, 0, 0
        elif insert.on_conflict == "ignore":
            self.inserted, self.updated = changed, 0
            self.ignored = None if changed is None else row_count - changed
        else:
            self.ignored = 0


class BulkDialect:
    """Mixed into our dialects: inserting many rows at once."""

    values: ClassVar[Values]
    #: whether the fast way depends on what the database's own table is like
    asks_for_the_table: ClassVar[bool] = False

    def conflicting(self, table: Table, on_conflict: OnConflict, columns: Any, key: Any) -> Insert:
        """Return an INSERT with the clause for conflicts; *columns* are those to update."""
        raise NotImplementedError

    def fast_carrier(self, insert: BulkInsert, rows: Rows, context: Any) -> Carrier | None:
        """Return the fastest carrier for *rows*; ``None`` if only ``insert()`` is sure to store them alike."""
        return None

    def insert_carrier(self, insert: BulkInsert) -> Carrier:
        """Return the carrier that sends INSERTs, for rows of any kind."""
        raise NotImplementedError

    #: whether the row count of an INSERT that ignores conflicts is the number of rows inserted
    counts_what_it_ignores: ClassVar[bool] = True
    #: whether a failed chunk is undone by a savepoint, to find the row or to go another way
    chunks_need_savepoints: ClassVar[bool] = True


_FAMILIES: tuple[Any, ...] = (
    *(sa.Boolean, sa.Integer, sa.Float, sa.Numeric, sa.DateTime, sa.Date, sa.Time, _AbstractInterval),
    *(sa.LargeBinary, sa.Uuid, sa.JSON, sa.String),
)


def family(kind: Any) -> Any:
    """Return which of SQLAlchemy's general types *kind* belongs to; ``None``: none, such as MariaDB's BIT."""
    return next((each for each in _FAMILIES if isinstance(kind, each)), None)


def by_column(rows: Rows) -> list[list[Any]]:
    """Return the values of each column of *rows*, which are all of one length.

    ``zip(*rows)`` makes an iterator for each row: thousands of objects at once, which set off the garbage collector.
    """
    return [list(map(itemgetter(place), rows)) for place in range(len(rows[0]))]


def converted(values: Values, rows: Any, statement: str, context: Any, knows: Callable[..., bool]) -> Any:
    """Return *rows* in the form that the driver takes, as :meth:`Values.many` does; faster for plain values."""
    if values.taken.issuperset(map(type, chain.from_iterable(rows))):
        return rows
    floats = values.floats
    only_floats = floats is not None and values.taken_or_float.issuperset(map(type, chain.from_iterable(rows)))
    if only_floats and all(map(floats, [value for value in chain.from_iterable(rows) if type(value) is float])):  # type: ignore[arg-type]  # it isn't None
        return rows
    return values.many(rows, statement, context, knows)
