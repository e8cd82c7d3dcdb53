"""SQLAlchemy's own Enum, whose error for an unknown stored value doesn't quote the value."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql


class _Quiet:
    """Mixed in before an Enum."""

    name: str | None
    enums: Any

    def _object_value_for_elem(self, elem: str) -> Any:
        try:
            return super()._object_value_for_elem(elem)  # type: ignore[misc]
        except LookupError:
            pass
        raise LookupError(
            f"a stored value is not among the defined enum values. Enum name: {self.name}. Possible values: "
            f"{', '.join(map(str, self.enums))}"
        )


class QuietEnum(_Quiet, sa.Enum):
    """For SQLite, which has no enum type."""


class _Native(_Quiet):
    """Mixed in before a database's native Enum; an Enum that is stored as text behaves as on SQLite."""

    @classmethod
    def adapt_native_to_emulated(cls, impl: Any, **options: Any) -> Any:
        return impl.adapt(QuietEnum if type(impl) is sa.Enum else type(impl), **options)


class QuietPostgresqlEnum(_Native, postgresql.ENUM):
    """For PostgreSQL."""


class QuietMysqlEnum(_Native, mysql.ENUM):
    """For MariaDB."""
