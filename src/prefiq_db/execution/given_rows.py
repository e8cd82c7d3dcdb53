"""The rows that a caller gives, of any kind, as uniform tuples: checked as they come, a chunk at a time.

A row is a mapping, a dataclass, a pydantic model, a named tuple, a row of a query, or with ``columns`` any tuple or
list. Errors name the row by its index, ``rows[3]``, and the column; never a value.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any, Final

import pydantic
from sqlalchemy import Row

from prefiq_db.bridge import Runtime
from prefiq_db.errors import UsageError
from prefiq_db.execution.target_tables import Target

#: One row's values, in the order of ``GivenRows.names``.
Values = tuple[Any, ...]
_Taker = Callable[[Any], Values]

#: A chunk ends at the first of these limits: rows, bytes (estimated from samples) and seconds of waiting for rows.
MOST_ROWS: Final = 10_000
MOST_BYTES: Final = 4 * 2**20
MOST_SECONDS: Final = 0.5

_FIRST_PIECE: Final = 16
_LARGEST_PIECE: Final = 1024


class GivenRows:
    """Rows as the caller gave them, taken in chunks.

    Attributes:
        names: how the caller calls the columns, in the order of a chunk's tuples; empty if there is no row at all.
        keys: the same columns' keys in the target's ``Table``.
        taken: how many rows were taken so far.
        is_sequence: the rows are a list, tuple or other sequence, which can be gone through again.
    """

    def __init__(self, rows: Any, columns: Sequence[Any] | None, target: Target, runtime: Runtime) -> None:
        self._target = target
        self._given_columns = None if columns is None else _listed_columns(columns)
        self._columns = None if self._given_columns is None else tuple(_name_of(each) for each in self._given_columns)
        self.is_sequence = isinstance(rows, Sequence)
        self._rows = rows
        self._take = _taker(rows, runtime)
        self._takers: dict[type, _Taker] = {}
        self._piece = _FIRST_PIECE
        self.names: tuple[str, ...] = ()
        self.keys: tuple[str, ...] = ()
        self.taken = 0
        if self._columns is not None and self._given_columns is not None:
            self._settle(self._columns, self._given_columns)

    def again(self, runtime: Runtime) -> GivenRows:
        """Return the same rows from their beginning; only for a sequence."""
        return GivenRows(self._rows, self._given_columns, self._target, runtime)

    def next_chunk(
        self, most_rows: int = MOST_ROWS, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> list[Values]:
        """Return the next rows; an empty list when there are no more.

        Whatever the caller's iterable raises goes through unchanged.

        Raises:
            UsageError: for a row of the wrong kind, length or columns; it names the row.
        """
        chunk: list[Values] = []
        size, began = 0, clock()
        while len(chunk) < most_rows and size < most_bytes:
            started = clock()
            piece = self._take(min(self._piece, most_rows - len(chunk)))
            if not piece:
                break
            rows = self._checked(piece)
            self.taken += len(rows)
            chunk += rows
            sampled = _size(rows[0])
            size += sampled * len(rows)
            now = clock()
            self._pace(now - started, sampled * len(rows))
            if now - began > MOST_SECONDS:
                break
        return chunk

    def _pace(self, seconds: float, size: int) -> None:
        """Choose how many rows to ask for next: few of a slow source, or of large rows."""
        if seconds > MOST_SECONDS / 4 or size > MOST_BYTES // 4:
            self._piece = max(1, self._piece // 4)
        elif seconds < MOST_SECONDS / 16 and size < MOST_BYTES // 16:
            self._piece = min(_LARGEST_PIECE, self._piece * 2)

    # --- checks ----------------------------------------------------------------------------------

    def _checked(self, piece: list[Any]) -> list[Values]:
        """Return *piece* as tuples; the common kinds are checked all at once."""
        kinds = set(map(type, piece))
        if len(kinds) == 1 and self.names:
            kind, width = kinds.pop(), len(self.names)
            if kind is tuple and self._columns is not None:
                return piece if set(map(len, piece)) == {width} else self._one_by_one(piece)
            if kind is dict and (self._columns is not None or set(map(len, piece)) == {width}):
                try:
                    return list(map(self._from_mapping(), piece))
                except KeyError:
                    return self._one_by_one(piece)  # which says what is missing where
        return self._one_by_one(piece)

    def _one_by_one(self, piece: list[Any]) -> list[Values]:
        rows = []
        for number, row in enumerate(piece, self.taken):
            try:
                rows.append(self._values(row))
            except UsageError as error:
                refused = error
            else:
                continue
            raise in_row(refused, number)
        return rows

    def _values(self, row: Any) -> Values:
        kind = type(row)
        taker = self._takers.get(kind)
        if taker is None:
            taker = self._takers[kind] = self._taker_of(kind, row)
        return taker(row)

    def _taker_of(self, kind: type, row: Any) -> _Taker:
        """Return the function that makes tuples of rows of *kind*, of which *row* is the first."""
        if issubclass(kind, Mapping):
            return self._mapping_taker()
        fields = _fields_of(kind)
        if fields is not None:
            names = self._columns or fields
            self._agree(names, kind)
            missing = [name for name in names if name not in fields]
            if missing:
                raise UsageError(f"{kind.__name__} has no field for column {missing[0]}", column=missing[0])
            return _attributes(self.names)
        if issubclass(kind, (str, bytes, bytearray, memoryview)) or not issubclass(kind, Sequence):
            raise UsageError(
                f"expected a mapping, a dataclass, a pydantic model, or with columns= a tuple, not {kind.__name__}"
            )
        if self._columns is None:
            if issubclass(kind, Row):  # of this class are also rows with other names
                take = self._mapping_taker()
                return lambda row: take(row._mapping)
            given = getattr(row, "_fields", None)
            if not given:
                raise UsageError(
                    f"{kind.__name__}: a row without names needs columns=[...], in the order of its values"
                )
            self._agree(tuple(given), kind)
            if tuple(given) != self.names:
                return _attributes(self.names)
        return self._from_sequence

    def _agree(self, names: Sequence[str], kind: type) -> None:
        """Make *names* the columns of all rows, or check that they are the same as before."""
        if not self.names:
            self._settle(tuple(names))
        elif self._columns is None and set(names) != set(self.names):
            raise UsageError(_differing(set(names), set(self.names), kind.__name__))

    def _settle(self, names: tuple[str, ...], columns: Sequence[Any] | None = None) -> None:
        """Make *names* those of all rows; *columns* are what the caller gave for them, if it wasn't just names."""
        if not names:
            raise UsageError("columns: expected at least one")
        keys = tuple(self._target.column(each).key for each in (names if columns is None else columns))
        if len(set(keys)) < len(keys):
            twice = next(name for place, name in enumerate(names) if keys[place] in keys[:place])
            raise UsageError(f"columns: {twice} is given twice", column=twice)
        self.names, self.keys = names, keys

    def _mapping_taker(self) -> _Taker:
        def take(row: Mapping[str, Any]) -> Values:
            if not self.names:
                self._settle(tuple(row))
            if self._columns is None and len(row) != len(self.names):
                raise UsageError(_differing(set(row), set(self.names), "it"))
            try:
                return tuple([row[name] for name in self.names])
            except KeyError:
                pass
            if self._columns is None:
                raise UsageError(_differing(set(row), set(self.names), "it"))
            missing = next(name for name in self.names if name not in row)
            raise UsageError(f"no value for column {missing}; give None for NULL", column=missing)

        return take

    def _from_mapping(self) -> _Taker:
        names = self.names
        if len(names) > 1:
            return itemgetter(*names)
        return lambda row: (row[names[0]],)

    def _from_sequence(self, row: Sequence[Any]) -> Values:
        if len(row) != len(self.names):
            raise UsageError(f"{len(row)} values for {len(self.names)} columns")
        return tuple(row)


def in_row(error: UsageError, number: int) -> UsageError:
    """Return *error* with the index of the row that it is about."""
    error.args = (f"rows[{number}]: {error}",)
    return error


def _listed_columns(columns: Any) -> tuple[Any, ...]:
    if isinstance(columns, (str, bytes)) or not isinstance(columns, Iterable):
        raise UsageError(f"columns: expected a list of column names, not {type(columns).__name__}")
    return tuple(columns)


def _name_of(column: Any) -> str:
    name = getattr(column, "key", column)
    if not isinstance(name, str):
        raise UsageError(f"columns: expected names, not {type(name).__name__}")
    return name


def _differing(names: set[Any], expected: set[str], subject: str) -> str:
    more, less = _listed(names - expected), _listed(expected - names)
    parts = [f"has {more}, which the first row lacks"] if more else []
    parts += [f"lacks {less}, which the first row has"] if less else []
    return f"{subject} {' and '.join(parts)}; all rows need the same columns (give None for NULL)"


def _listed(names: set[Any]) -> str:
    return ", ".join(sorted(name if isinstance(name, str) else f"<{type(name).__name__}>" for name in names))


def _fields_of(kind: type) -> tuple[str, ...] | None:
    """Return the field names of a dataclass or pydantic model; ``None`` for any other class."""
    if issubclass(kind, pydantic.BaseModel):
        return tuple(kind.model_fields)
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return None


def _attributes(names: tuple[str, ...]) -> _Taker:
    if len(names) > 1:
        return attrgetter(*names)
    get = attrgetter(*names)
    return lambda row: (get(row),)


def _size(row: Values) -> int:
    return sum(map(sys.getsizeof, row))


# --- sync and async sources ----------------------------------------------------------------------


def _taker(rows: Any, runtime: Runtime) -> Callable[[int], list[Any]]:
    """Return a function that takes up to so many rows; of an async iterable only where a loop can await it."""
    if isinstance(rows, (str, bytes, bytearray, memoryview, Mapping)):
        raise UsageError(f"rows: expected an iterable of rows, not {type(rows).__name__}")
    if isinstance(rows, Iterable):
        return _sync_taker(iter(rows))
    if not hasattr(rows, "__aiter__"):
        raise UsageError(f"rows: expected an iterable of rows, not {type(rows).__name__}")
    if not runtime.is_async:
        raise UsageError("rows: an async iterable needs an AsyncDatabase; a Database takes an ordinary one")
    return _async_taker(aiter(rows), runtime)


def _sync_taker(iterator: Iterator[Any]) -> Callable[[int], list[Any]]:
    return lambda most: list(islice(iterator, most))


def _async_taker(iterator: AsyncIterator[Any], runtime: Runtime) -> Callable[[int], list[Any]]:
    async def take(most: int) -> list[Any]:
        piece: list[Any] = []
        async for row in iterator:
            piece.append(row)
            if len(piece) >= most:
                break
        return piece

    return lambda most: runtime.call(take, most)
