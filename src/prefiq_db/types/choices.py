"""A choice of a few texts; the database refuses all others."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

from prefiq_db.errors import DataError, UsageError
from prefiq_db.products import PRODUCTS, dialects
from prefiq_db.types.naming import fit_name

DEFAULT_LENGTH: Final = 32
#: Where the CHECK of an enum notes its column, in ``CheckConstraint.info``.
CHECKS_COLUMN: Final = "prefiq_db.column"

_WITH_CHARSETS: Final = dialects(where=lambda product: product.speaks_mysql)
_COLLATIONS: Final = {product.dialect: product.exact_collation for product in PRODUCTS.values()}


class StrEnum(TypeDecorator[Any]):
    """A member of an :class:`enum.StrEnum`: a ``VARCHAR`` with a named CHECK on the table, no ``ENUM`` of the server.

    ``StrEnum(Status)`` returns members; ``StrEnum(("new", "paid"))`` returns plain texts and is the form for revisions,
    because a revision must not change when the enum does. A new member changes only the CHECK, and autogenerate finds
    it. Upper and lower case differ on every database; SQL sorts by the texts' bytes, not by the order of members.

    Args:
        members: the enum, or its values.
        length: of the column. Changing it changes the column's type, so leave room to grow: default 32.
        name: the name of the CHECK; default: ``ck_<table>_<column>``, or the naming convention's name for the column.

    Raises:
        UsageError: for a value that is not a member; in a declaration: a value that is empty, too long or ends in a
            blank.
        DataError: if the database holds a text that is not a member of the enum.
    """

    impl = sa.String
    cache_ok = True

    # No keyword-only arguments: SQLAlchemy's cache key would miss them.
    def __init__(
        self, members: type[enum.StrEnum] | Sequence[str], length: int = DEFAULT_LENGTH, name: str | None = None
    ) -> None:
        self.members = members if isinstance(members, type) else tuple(members)
        self.values: tuple[str, ...] = tuple(str(member) for member in members)
        self.length = length
        self.name = name
        if not self.values or len(set(self.values)) < len(self.values):
            raise UsageError("StrEnum: expected an enum.StrEnum with members, or different texts")
        if bad := [value for value in self.values if not value or value != value.strip() or len(value) > length]:
            raise UsageError(f"StrEnum: expected values of 1 to {length} characters without outer blanks; got {bad}")
        super().__init__(length)

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        if dialect.name in _WITH_CHARSETS:
            # Under the usual collations 'PAID' equals 'paid', and so does 'paid ' unless they are NOPAD.
            collation = "utf8mb4_nopad_bin" if dialect.is_mariadb else "utf8mb4_bin"  # type: ignore[attr-defined]
            return dialect.type_descriptor(mysql.VARCHAR(self.length, charset="utf8mb4", collation=collation))
        return dialect.type_descriptor(sa.String(self.length, collation=_COLLATIONS.get(dialect.name)))

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str):
            raise UsageError(f"StrEnum: expected one of {self._show_values()}, not {type(value).__name__}")
        if isinstance(value, enum.StrEnum) and isinstance(self.members, type) and not isinstance(value, self.members):
            raise UsageError(f"StrEnum: expected one of {self._show_values()}, not a {type(value).__name__}")
        text = str(value)
        if text not in self.values:
            raise UsageError(f"StrEnum: expected one of {self._show_values()}")
        return text

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Any:
        if value is None or not isinstance(self.members, type):
            return value
        if value not in self.values:
            raise DataError(f"StrEnum: the database holds a text that is no {self.members.__name__}")
        return self.members(value)

    def _show_values(self) -> str:
        # The members come from the program, so they are no data to mask.
        return self.members.__name__ if isinstance(self.members, type) else ", ".join(self.values)

    # --- the CHECK ---------------------------------------------------------------------------------------------

    def _set_parent(self, parent: Any, outer: bool = False, **kw: Any) -> None:
        """Follow the column to its table, as SQLAlchemy's own types with a CHECK do."""
        super()._set_parent(parent, outer, **kw)
        event.listen(parent, "after_parent_attach", self._add_check)

    def _add_check(self, column: sa.Column[Any], table: Any) -> None:
        if not isinstance(table, sa.Table):
            return
        name = self.name or column.name
        if "ck" not in table.metadata.naming_convention and self.name is None:
            name = fit_name(f"ck_{table.name}_{column.name}")
        # On the table: MariaDB takes no name for a CHECK on a column. Bound to the type: copying or rendering the table
        # includes the CHECK with the column, and must not create a second one.
        check = sa.CheckConstraint(self.check_sql(column.name), name=name, _type_bound=True)
        check.info[CHECKS_COLUMN] = column.name
        table.append_constraint(check)

    def check_sql(self, column: str) -> sa.ColumnElement[bool]:
        """Return the condition of the CHECK on *column*."""
        return sa.column(column).in_([sa.literal_column(_quote(value)) for value in self.values])


def _quote(value: str) -> str:
    doubled = value.replace("'", "''")
    return f"'{doubled}'"
