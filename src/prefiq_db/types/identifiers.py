"""Identifiers: UUIDs as the database keeps them best."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

from prefiq_db.errors import UsageError


class Uuid(TypeDecorator[uuid.UUID]):
    """A :class:`uuid.UUID`: ``UUID`` on PostgreSQL and MariaDB (10.7 and later), else ``CHAR(32)``.

    Equal is equal everywhere. Order is not promised: MariaDB sorts versions 1 to 5 by other bytes than the rest of the
    world; version 7 sorts by its time on all of them.

    Raises:
        UsageError: for what is no UUID, a text too: ``uuid.UUID(text)`` checks it.
    """

    impl = sa.Uuid
    cache_ok = True

    def __init__(self) -> None:
        super().__init__()

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> uuid.UUID | None:
        if value is not None and not isinstance(value, uuid.UUID):
            raise UsageError(f"Uuid: expected a uuid.UUID, not {type(value).__name__}")
        return value
