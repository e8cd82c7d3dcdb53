"""The statements of one upsert, in their order, and its result; how they are sent is the caller's business."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData

from prefiq_db.dialects.base import PrefiqDialect
from prefiq_db.dialects.upsert_sql import bound_keys, count_of_keys, rows_of_keys, same_for_the_database
from prefiq_db.errors import ErrorClass, ErrorKind, PrefiqDbError, SerializationError, UsageError
from prefiq_db.execution.bad_values import placed
from prefiq_db.execution.upsert_request import UpsertRequest
from prefiq_db.reports import UpsertResult

#: Sends a statement with its params and returns its rows.
Send = Callable[[Any, Any], list[Any]]

# How often a row may vanish between INSERT and SELECT before that is an error.
_MOST_ROUNDS: Final = 5


class UpsertSteps:
    """What has to be sent for a request, on one database.

    Attributes:
        is_one_statement: one INSERT is all.
        needs_undo: inside a transaction, what was done before a failure has to be undone.
    """

    def __init__(self, request: UpsertRequest, dialect: PrefiqDialect) -> None:
        self.request = request
        self._dialect = dialect
        self.wanted = wanted = request.wanted
        self.sql = sql = dialect.upserts
        self._returns = bool(dialect.insert_returning)  # type: ignore[attr-defined]
        self._tells = True
        self._made: tuple[bool, Any] | None = None
        self.chunks = request.chunks(dialect.insertmanyvalues_max_parameters)  # type: ignore[attr-defined]
        several = len(request.rows) > 1
        updates = bool(wanted.update)
        self._looks = updates and sql.looks_first
        # One statement would take both rows without a word, the second as an update of the first.
        self._checks = several and updates and not sql.refuses_same and request.may_have_same_keys(dialect)
        returns_all = self._returns and (updates or sql.returns_all)
        self._reads_back = bool(wanted.returning) and not returns_all
        by_driver = several and not self._returns  # which sends as many statements as it likes
        alone = len(self.chunks) == 1 and not by_driver
        self.is_one_statement = alone and not (self._looks or self._checks or self._reads_back)
        self.needs_undo = not alone or self._checks or self._reads_back
        self.question = sql.asks_about(wanted.table, dialect) if updates and self._returns else None
        self.table_name = dialect.identifier_preparer.format_table(wanted.table)  # type: ignore[attr-defined]

    def tell(self, tells: bool) -> None:
        """Take the answer to ``question``."""
        self._tells = tells

    @property
    def insert(self) -> Any:
        tells = self._tells and (bool(self.wanted.update) or self.sql.returns_all)
        if self._made is None or self._made[0] is not tells:
            self._made = (tells, self.sql.statement(self.wanted, returns=self._returns, tells=tells))
        return self._made[1]

    def explained(self, error: PrefiqDbError) -> PrefiqDbError | None:
        """Return the error that *error* stands for, if it is another one."""
        if isinstance(error, UsageError):
            better = placed(error, self.request.rows, self.wanted.table, self._dialect)
            return None if better is error else better
        return self.sql.explained(error, self.wanted)

    # --- run -------------------------------------------------------------------------------------

    def run(self, send: Send) -> UpsertResult:
        """Send everything and return the result."""
        inserted: int | None = 0
        rows: list[Any] = []
        for chunk in self.chunks:
            new, returned = self._run_chunk(send, chunk)
            inserted = None if new is None or inserted is None else inserted + new
            rows += returned
        count = len(self.request.rows)
        updated = None if inserted is None else count - inserted if self.wanted.update else 0
        return UpsertResult(count, inserted, updated, self._as_rows(rows) if self.wanted.returning else ())

    def _run_chunk(self, send: Send, chunk: range) -> tuple[int | None, list[Any]]:
        request = self.request
        given, keys = request.rows[chunk.start : chunk.stop], request.keys[chunk.start : chunk.stop]
        there = self._count(send, keys) if self._looks else 0
        answer = send(self.insert, given[0] if len(given) == 1 else given)
        if self._checks and self._count(send, keys) < len(keys):
            raise same_for_the_database(self.wanted)
        inserted = len(keys) - there if self._looks else self._inserted(answer)
        if not self.wanted.returning:
            return inserted, []
        if self._reads_back:
            again, rows = self._read_back(send, given, keys)
            return (None if inserted is None else inserted + again), rows
        width = self.sql.mark_width
        return inserted, in_input_order(keys, [tuple(row[width:]) for row in answer])

    def _count(self, send: Send, keys: Sequence[tuple[Any, ...]]) -> int:
        return int(send(count_of_keys(self.wanted), bound_keys(keys))[0][0])

    def _inserted(self, answer: list[Any]) -> int | None:
        """Return how many rows the INSERT says are new; ``None`` if it says nothing of them."""
        if not self._returns:
            return None
        if not self.wanted.update and not self.sql.returns_all:
            return len(answer)
        return None if not self._tells else sum(1 for row in answer if row[0])

    # --- rows ------------------------------------------------------------------------------------

    def _read_back(
        self, send: Send, given: Sequence[Any], keys: Sequence[tuple[Any, ...]]
    ) -> tuple[int, list[tuple[Any, ...]]]:
        """Return how many rows had to be inserted anew, and the columns asked for, read under a lock.

        A row that another transaction deletes between our INSERT and our SELECT is inserted again.
        """
        width, anew = len(self.wanted.key), 0
        missing, found = list(range(len(keys))), dict[int, Any]()
        for _ in range(_MOST_ROUNDS):
            found.update(self._found(send, [(place, keys[place]) for place in missing]))
            missing = [place for place in missing if place not in found]
            if not missing:
                return anew, [found[place][width:] for place in range(len(keys))]
            anew += self._inserted(send(self.insert, [given[place] for place in missing])) or 0
        raise SerializationError(
            f"rows of {self.wanted.table.name} were deleted again and again while they were read",
            table=self.wanted.table.name,
            classification=ErrorClass(ErrorKind.SERIALIZATION, transient=True, retry_transaction=True),
        )

    def _found(self, send: Send, asked: list[tuple[int, tuple[Any, ...]]]) -> dict[int, tuple[Any, ...]]:
        """Return the rows with the keys of *asked*, by their numbers."""
        width, statement = len(self.wanted.key), rows_of_keys(self.wanted)
        rows = [tuple(row) for row in send(statement, bound_keys([key for _, key in asked]))]
        by_key = {row[:width]: row for row in rows}
        found = {place: by_key[key] for place, key in asked if key in by_key}
        if len(found) < len(rows):
            # The database stores some keys as other values: rounded, say, or in other letters.
            for place, key in asked:
                if place not in found and (row := send(statement, bound_keys([key]))):
                    found[place] = tuple(row[0])
        return found

    def _as_rows(self, rows: list[Any]) -> Sequence[Any]:
        names = [column.key for column in self.wanted.returning]
        return IteratorResult(SimpleResultMetaData(names), iter(rows)).all()


def in_input_order(keys: Sequence[tuple[Any, ...]], rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return *rows*, which begin with their keys, in the order of *keys* and without them.

    The servers return them in that order already. If they don't, and know all keys as we gave them, the keys decide.
    """
    width = len(keys[0])
    if any(row[:width] != key for row, key in zip(rows, keys, strict=False)):
        places = {key: place for place, key in enumerate(keys)}
        if all(row[:width] in places for row in rows):
            rows = sorted(rows, key=lambda row: places[row[:width]])
    return [row[width:] for row in rows]
