"""Identifiers: UUIDs in each database's best type."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

from prefiq_db.errors import UsageError


class Uuid(TypeDecorator[uuid.UUID]):
    """A :class:`uuid.UUID`: ``UUID`` on PostgreSQL and MariaDB (10.7 and later), else ``CHAR(32)``.

    Equality is the same everywhere, order isn't: MariaDB sorts versions 1 to 5 by other bytes than the other databases;
    all of them sort version 7 by its time.

    Raises:
        UsageError: for any other type, even a text: ``uuid.UUID(text)`` checks it.
    """

    impl = sa.Uuid
    cache_ok = True

    def __init__(self) -> None:
        super().__init__()

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> uuid.UUID | None:
        if value is not None and not isinstance(value, uuid.UUID):
            raise UsageError(f"Uuid: expected a uuid.UUID, not {type(value).__name__}")
        return value
