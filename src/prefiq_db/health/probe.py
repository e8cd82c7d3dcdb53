"""Probe one database, with one statement on one connection."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

from sqlalchemy import Connection, text

from prefiq_db.call import Call
from prefiq_db.core import DatabaseCore
from prefiq_db.deadline import Deadline
from prefiq_db.errors import ErrorKind, PoolTimeoutError, TooManyConnectionsError
from prefiq_db.execution.shapes import ONE_ROW
from prefiq_db.execution.standard import StandardRoad
from prefiq_db.forks import renewed
from prefiq_db.health.verdicts import WELL, Status, Verdict

_IN_STEP: Final = "Synced"
_EXHAUSTED: Final = Verdict(
    Status.WARN, f"{ErrorKind.POOL_TIMEOUT.value}: the server answers outside the pool", ErrorKind.POOL_TIMEOUT
)
_FULL: Final = Verdict(
    Status.WARN,
    f"{ErrorKind.POOL_TIMEOUT.value}: the server takes no further connections",
    ErrorKind.TOO_MANY_CONNECTIONS,
)


class Held:
    """The connection of a probe; the waiting caller can shut it down."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._lock = renewed(self, "_lock")

    def take(self, road: StandardRoad, connection: Connection) -> None:
        descriptor = road.dialect.socket_of(connection.connection.dbapi_connection)
        with self._lock:
            self._descriptor = descriptor

    def release(self) -> None:
        """Record that the connection is being returned: from here on it must not be shut down."""
        with self._lock:
            self._descriptor = None

    def break_off(self) -> bool:
        """Shut down the socket, whatever the driver waits for; return whether there was a socket."""
        # Under the lock: the descriptor must not be released and reused in the meantime.
        with self._lock:
            if self._descriptor is None or self._descriptor < 0:
                return False
            with socket.socket(fileno=os.dup(self._descriptor)) as line, contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            return True


def probe(core: DatabaseCore, held: Held, deadline: Deadline, *, writable: bool) -> Verdict:
    """Return the verdict on a database, from one round trip to it.

    If the pool has no free connection by *deadline*, the server may still be up: one connection outside the pool
    shows whether it is (decisions/0040-why-an-exhausted-pool-only-warns.md).

    Raises:
        PrefiqDbError: there was no reply.
    """
    core.check_usable()
    try:
        connection = core.road.checkout(deadline)
    except PoolTimeoutError:
        connection = None
    if connection is not None:
        return _ask(core, core.road, connection, writable, held)
    road = core.road.outside()
    try:
        found = _ask(core, road, road.checkout(), writable, held)
    except TooManyConnectionsError:
        return _FULL
    return _EXHAUSTED if found is WELL else found


def _ask(core: DatabaseCore, road: StandardRoad, connection: Connection, writable: bool, held: Held) -> Verdict:
    try:
        held.take(road, connection)
        road.state(connection).checkout.one_shot = True
        # The limit of the settings: a shorter one would cost a round trip to set, and another one to reset.
        limit = core.settings.statement_timeout_seconds
        row = road.run(connection, Call("health", text(road.dialect.health_sql), None, ONE_ROW), limit)
    finally:
        held.release()
        connection.close()
    ailment, state = core.ailment_of(row, writable=writable), road.dialect.read_state(row)
    if ailment is not None:
        return Verdict(Status.FAIL, f"{ailment.value}: {state}" if state else ailment.value, ailment)
    # A Galera node that is a donor, or out of step on purpose, works and lags behind.
    return Verdict(Status.WARN, f"the node is {state}") if state not in ("", _IN_STEP) else WELL
