"""One database: everything that the sync and the async API call.

Synchronous code over SQLAlchemy's Connection. The async API runs it inside the greenlet bridge, and every wait goes
through the :class:`~prefiq_db.bridge.Runtime`.
"""

from __future__ import annotations

import logging

from sqlalchemy import Connection

from prefiq_db.call import NO_OVERRIDES
from prefiq_db.core.diagnosis import Diagnosis
from prefiq_db.errors import PrefiqDbError, UnsupportedError, UsageError
from prefiq_db.instance import Instance
from prefiq_db.transaction import Block, Scope

logger = logging.getLogger("prefiq_db.database")


class DatabaseCore(Diagnosis):
    """One database. The public verbs delegate every decision to it."""

    def __init__(self, instance: Instance) -> None:
        self.view = NO_OVERRIDES
        self.instance = instance
        self.has_namespaces = instance.target.product.has_namespaces
        # Every statement reads these; copies here save an attribute look-up.
        self.settings = instance.settings
        self.name = instance.name
        self.runtime = instance.runtime
        self.hooks = instance.hooks
        self.road = instance.road

    # --- open and closed -------------------------------------------------------------------------

    def open(self) -> None:
        """Fill the pool: one connection must succeed, the rest is best effort."""
        self.check_world()
        instance = self.instance
        instance.closed = False
        instance.engine.pool.close_returning(False)  # type: ignore[attr-defined]  # close() may have been interrupted
        instance.tenants.open()
        for node in () if instance.readers is None else instance.readers.nodes:
            node.instance.closed = False
            node.instance.engine.pool.close_returning(False)  # type: ignore[attr-defined]  # likewise
        held: list[Connection] = []
        try:
            held.append(self.road.checkout())
            while len(held) < self.settings.pool_size:
                held.append(self.road.checkout())
            if self.settings.pgbouncer and len(held) > 1:
                self._tell_of_a_lost_zone(held[0], held[1])
        except PrefiqDbError as error:
            if not held:
                raise
            logger.warning(
                "the pool of database %s holds %d of %d connections: %s",
                self.name,
                len(held),
                self.settings.pool_size,
                error.kind.value,
                extra={"database": self.name, "error_kind": error.kind.value},
            )
        finally:
            _give_back(held)

    def _tell_of_a_lost_zone(self, first: Connection, second: Connection) -> None:
        one, other = (each.connection.dbapi_connection for each in (first, second))
        zone = self.road.border.cross(lambda: self.road.dialect.zone_lost(one, other))
        if zone is not None:
            logger.warning(
                "the pooler of database %s does not keep a client's time zone, and the server's own is %s: outside of"
                " transactions an instant may be read or stored as another; let the pooler keep timezone, as pgbouncer"
                " does, or say ALTER DATABASE ... SET timezone = 'UTC'",
                self.name,
                zone,
                extra={"database": self.name},
            )

    def close(self) -> None:
        """Close the pool's connections. Later statements raise ClosedError; open() opens it again."""
        if self.instance.closed and not self.instance.closing:
            return
        self.check_world()
        try:
            # A time limit on the shutdown must not leave connections to the server open, nor the pool half-closed.
            self.runtime.shielded(self.instance.close, self.settings.connect_timeout_seconds)
        finally:
            self.runtime.forget_loop()  # open() may be called in another one

    # --- SQLAlchemy's own objects ----------------------------------------------------------------

    def check_engine_allowed(self) -> None:
        """Raise inside a transaction, where the engine would open a second connection."""
        self._check_writable("engine")
        if self.schema_of(self.overrides()) is not None:
            raise UnsupportedError(
                "engine under a schema: its connections look up names in the session's own schema; use session() or "
                "transaction(), or SQLAlchemy's schema_translate_map on the engine of the database itself"
            )
        if self.ambient() is not None:
            raise UsageError(
                "engine inside transaction(): it would work on another connection, outside the transaction; use "
                "session() or tx.connection"
            )

    def pinned(self) -> Scope[Block] | None:
        """Return the transaction that a new session joins, or ``None`` if it gets its own connection."""
        self.check_usable()
        scope = self.ambient()
        if scope is None or not scope.blocks[0].options.read_only:
            self._check_writable("session()")
        return scope

    def _check_writable(self, what: str) -> None:
        if self.overrides().read_only and not self.settings.read_only:
            raise UnsupportedError(f"{what} would write although read_only is set; use transaction(read_only=True)")


def _give_back(held: list[Connection]) -> None:
    """Return all of them to the pool, even if an interruption hits at one of them."""
    try:
        while held:
            held.pop().close()
    finally:
        if held:
            _give_back(held)
