"""Binary columns that accept only bytes-like values, on every database."""

from __future__ import annotations

from typing import Any

from sqlalchemy.sql.sqltypes import _Binary


class Bytes(_Binary):
    """Binary type; SQLAlchemy's own asks the driver: PyMySQL makes bytes of a list and a set, and five NULs of 5."""

    # PostgreSQL needs the type's name when an INSERT of many rows returns them in order, as in an ORM flush.
    __visit_name__ = "large_binary"

    def bind_processor(self, dialect: Any) -> Any:
        return _bytes


def _bytes(value: Any) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError("expected bytes")
