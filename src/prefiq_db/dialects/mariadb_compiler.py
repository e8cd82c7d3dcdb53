"""SQLAlchemy's compiler for MariaDB and MySQL, with one mend."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql.base import MySQLCompiler
from sqlalchemy.sql import visitors


class MariadbCompiler(MySQLCompiler):
    """Knows a column with ``%`` in its name where an INSERT updates the row it conflicts with.

    SQLAlchemy doubles each % for the driver, and for the given row's columns it does so twice.
    """

    def visit_on_duplicate_key_update(self, on_duplicate: Any, **options: Any) -> str:
        given = on_duplicate.inserted_alias

        def written(element: Any, **_: Any) -> Any:
            is_given = isinstance(element, sa.ColumnClause) and element.table is given
            return sa.func.VALUES(given.element.c[element.key]) if is_given and "%" in element.name else None

        if any("%" in column.name for column in given.c):
            values = on_duplicate.update.items()
            on_duplicate = on_duplicate._clone()
            on_duplicate.update = {key: visitors.replacement_traverse(value, {}, written) for key, value in values}
        return super().visit_on_duplicate_key_update(on_duplicate, **options)
