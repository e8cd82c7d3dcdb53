"""Many rows into SQLite: the driver's executemany, which says how far it came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from sqlalchemy import Insert, Table
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from prefiq_db.dialects.bulk import BulkDialect, BulkInsert, Carrier, OnConflict, Rows


class Executemany(Carrier):
    """One executemany per chunk; its rows come from a list, whose iterator knows how many it has given."""

    is_sure: ClassVar[bool] = True

    def send(self, cursor: Any, statement: str, rows: Rows, context: Any) -> None:
        waiting: Iterator[Any] = iter(rows if isinstance(rows, list) else list(rows))
        try:
            cursor.executemany(statement, waiting)
        except BaseException:
            taken = len(rows) - waiting.__length_hint__()  # type: ignore[attr-defined]  # a list's has it
            self.failed_at = taken - 1 if taken else None  # none: the statement itself is wrong
            raise
        self.count(len(rows), cursor.rowcount)


class SqliteBulk(BulkDialect):
    chunks_need_savepoints: ClassVar[bool] = False

    def conflicting(self, table: Table, on_conflict: OnConflict, columns: Any, key: Any) -> Insert:
        insert = sqlite_insert(table)
        if on_conflict == "ignore" or not columns:
            return insert.on_conflict_do_nothing()
        return insert.on_conflict_do_update(
            index_elements=list(key), set_={column.key: insert.excluded[column.key] for column in columns}
        )

    def insert_carrier(self, insert: BulkInsert) -> Carrier:
        return Executemany(insert, insert.compiled.string)
