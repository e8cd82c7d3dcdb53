"""Remember the transaction options of execution_options() for our BEGIN, which sends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from sqlalchemy import exc as sa_exc
from sqlalchemy.engine.characteristics import (
    ConnectionCharacteristic,
    IsolationLevelCharacteristic,
    LoggingTokenCharacteristic,
)

from prefiq_db.config import ISOLATION_LEVELS
from prefiq_db.dialects.session import AUTOCOMMIT

#: the execution option of an engine whose transactions look up names in one schema
SCHEMA: Final = "prefiq_schema"


class _Isolation(IsolationLevelCharacteristic):
    """Remember the isolation level; our BEGIN sends it. The driver is never touched after connect."""

    def set_connection_characteristic(self, dialect: Any, conn: Any, dbapi_conn: Any, value: Any) -> None:
        level = str(value).upper().replace("_", " ")
        if level not in (*ISOLATION_LEVELS, AUTOCOMMIT):
            raise sa_exc.ArgumentError(f"isolation_level: expected one of {', '.join((*ISOLATION_LEVELS, AUTOCOMMIT))}")
        dialect.session_of(conn.connection).transaction.isolation = level

    def reset_characteristic(self, dialect: Any, dbapi_conn: Any) -> None:
        """Do nothing: the pool clears it at checkin."""


class Remembered(ConnectionCharacteristic):
    """Remember a yes or no (read-only, deferrable) for our BEGIN."""

    transactional: ClassVar[bool] = True

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute

    def set_connection_characteristic(self, dialect: Any, conn: Any, dbapi_conn: Any, value: Any) -> None:
        setattr(dialect.session_of(conn.connection).transaction, self.attribute, bool(value))

    def reset_characteristic(self, dialect: Any, dbapi_conn: Any) -> None:
        """Do nothing: the pool clears it at checkin."""

    def set_characteristic(self, dialect: Any, dbapi_conn: Any, value: Any) -> None:
        raise NotImplementedError  # SQLAlchemy calls the method above instead

    def get_characteristic(self, dialect: Any, dbapi_conn: Any) -> Any:
        raise NotImplementedError  # the driver has no such setting to read

    def get_connection_characteristic(self, dialect: Any, conn: Any, dbapi_conn: Any) -> Any:
        return getattr(dialect.session_of(conn.connection).transaction, self.attribute)


class RememberedSchema(Remembered):
    """Remember a schema for our BEGIN; the name has been checked."""

    def __init__(self) -> None:
        super().__init__("schema")

    def set_connection_characteristic(self, dialect: Any, conn: Any, dbapi_conn: Any, value: Any) -> None:
        dialect.session_of(conn.connection).transaction.schema = value


def characteristics(**more: ConnectionCharacteristic) -> Mapping[str, ConnectionCharacteristic]:
    """Return the connection characteristics of a dialect: the remembered isolation level, and *more*."""
    return {"isolation_level": _Isolation(), "logging_token": LoggingTokenCharacteristic(), **more}
