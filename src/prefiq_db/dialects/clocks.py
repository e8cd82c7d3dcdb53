"""Time limits of statements and control statements: the server's own, and the driver's as a fallback."""

from __future__ import annotations

from typing import Any, ClassVar

from prefiq_db.deadline import Deadline
from prefiq_db.dialects.engine_parts import ConfiguredDialect
from prefiq_db.dialects.session import SessionState
from prefiq_db.drivers.deadlines import GRACE_SECONDS


class ClockDialect(ConfiguredDialect):
    """Mixed into our dialects: time limits."""

    #: whether setting a per-call statement timeout costs a round trip (the value stays remembered)
    server_side_timeout: ClassVar[bool] = True

    def set_statement_timeout(self, proxied: Any, seconds: float) -> None:
        """Limit the statements that follow on this connection; do nothing if that limit is already set."""
        raise NotImplementedError

    def bound_statements(self, connection: Any, seconds: float, deadline: Deadline | None = None) -> None:
        """Limit the statements that follow on SQLAlchemy's *connection*; a failure here closes the connection."""
        proxied = connection._dbapi_connection
        try:
            self.limit_statements(proxied, seconds, deadline)
        except BaseException as error:  # noqa: BLE001 - likewise
            connection._handle_dbapi_exception(error, None, None, None, None)

    def limit_statements(self, proxied: Any, seconds: float, deadline: Deadline | None) -> None:
        """Limit the statements that follow on this connection.

        *deadline*, if given, is one that the caller shares among several statements: the driver waits no longer than
        what is left of it, whatever the server allows.
        """
        self.set_statement_timeout(proxied, seconds)
        if deadline is not None and (left := deadline.left()) < seconds:
            self.bound_wait(self.session_of(proxied), proxied.dbapi_connection, left)

    def bound_wait(self, state: SessionState, dbapi_connection: Any, seconds: float) -> None:
        """Let the driver wait for each reply a little longer than *seconds*, the server's own limit.

        The driver needs its own clock: a server that is frozen, or behind a silent network, enforces no limit.
        """
        if state.patience_seconds != seconds:
            state.patience_seconds = seconds
            self.set_patience(dbapi_connection, seconds + GRACE_SECONDS)

    def set_patience(self, dbapi_connection: Any, seconds: float) -> None:
        """Set the driver's clock: the longest that one request may take. A longer one closes the connection."""
        clock = self.clock_of(dbapi_connection)
        if clock is not None:
            clock.patience_seconds = seconds

    def clock_of(self, dbapi_connection: Any) -> Any:
        """Return the object that keeps the driver's clock and stops its statement at the server; else ``None``."""
        return None

    def _bound_control(self, state: SessionState, dbapi_connection: Any) -> None:
        limit = state.transaction.control_timeout
        seconds = self.limits.statement_timeout_seconds if limit is None else limit
        if state.patience_seconds != seconds:
            self.bound_wait(state, dbapi_connection, seconds)

    def timed_out(self, dbapi_connection: Any) -> bool | None:
        """Return whether our own clock stopped the last statement; ``None`` where only the server knows."""
        return None

    def interruption_of(self, dbapi_connection: Any) -> BaseException | None:
        """Return the exception that a signal handler raised during the last statement, if the driver swallows it."""
        return None
