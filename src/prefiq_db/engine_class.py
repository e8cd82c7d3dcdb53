"""The class of ``db.engine``: SQLAlchemy's engine, whose raw connections are in a transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.engine.base import OptionEngineMixin
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.pool import PoolProxiedConnection


class PrefiqConnection(Connection):
    """SQLAlchemy's connection, with our isolation levels."""

    def __init__(self, engine: Engine, connection: PoolProxiedConnection | None = None, **options: Any) -> None:
        super().__init__(engine, checked_out(engine) if connection is None else connection, **options)

    def get_isolation_level(self) -> IsolationLevel:
        """Return the level of the open transaction or, outside of one, of the next; never ``AUTOCOMMIT``.

        If no level was chosen, this asks the server, which doesn't know what our BEGIN is going to say.
        """
        dialect: Any = self.dialect
        chosen: IsolationLevel | None = dialect.chosen_isolation(dialect.session_of(self.connection))
        return super().get_isolation_level() if chosen is None else chosen


class PrefiqEngine(Engine):
    """SQLAlchemy's engine; ``raw_connection()`` behaves as on a driver that is not in autocommit.

    Our connections are in autocommit (docs/decisions/0002-driver-autocommit-with-our-own-begin.md), where
    ``rollback()`` does nothing: half of the work on a raw connection would stay.
    """

    _connection_cls = PrefiqConnection

    def raw_connection(self) -> PoolProxiedConnection:
        """Return a connection of the driver's own, in a transaction that the driver begins (PEP 249).

        Without ``commit()`` nothing stays. ``close()`` returns it to the pool, clean.
        """
        proxied = self.pool.connect()
        try:
            self.dialect.let_driver_begin(proxied)  # type: ignore[attr-defined]
        except BaseException:
            proxied.invalidate()
            proxied.close()
            raise
        return proxied


class _OptionEngine(OptionEngineMixin, PrefiqEngine):
    """The result of our engine's ``execution_options()``."""

    def update_execution_options(self, **opt: Any) -> None:
        PrefiqEngine.update_execution_options(self, **opt)


PrefiqEngine._option_cls = _OptionEngine  # type: ignore[assignment]


def checked_out(engine: Engine) -> PoolProxiedConnection:
    """Return a connection from *engine*'s pool; a connection error is SQLAlchemy's, as on any engine."""
    try:
        return engine.pool.connect()
    except engine.dialect.loaded_dbapi.Error as error:
        Connection._handle_dbapi_exception_noconnection(error, engine.dialect, engine)
        raise
