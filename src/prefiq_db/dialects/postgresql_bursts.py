"""PostgreSQL: BEGIN travels with the first statement, in one burst of libpq's pipeline mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from prefiq_db.dialects.sending import StatementDialect
from prefiq_db.dialects.session import HALF, SessionState, TransactionState

if TYPE_CHECKING:
    from prefiq_db.drivers.psycopg_bursts import Burst


def was_refused_ahead(error: Exception) -> bool:
    """Return whether *error* is that of a request ahead of the statement, which the server skipped then."""
    return bool(getattr(error, "prefiq_db_ahead", False))


class PostgresqlBursts(StatementDialect):
    """Mixed into our dialects for psycopg."""

    def begin_messages(self, transaction: TransactionState) -> list[str]:
        raise NotImplementedError

    def _driver(self, dbapi_connection: Any) -> Any:
        raise NotImplementedError

    def send_commit_unheard(self, transaction: TransactionState, dbapi_connection: Any) -> bool:
        driver = self._driver(dbapi_connection)
        # What a SERIALIZABLE transaction has read is right only if its COMMIT succeeds.
        level = transaction.isolation or self.default_isolation_level  # type: ignore[attr-defined]
        if level in (None, "SERIALIZABLE") or not self.limits.session_settings or driver._pipeline is not None:
            return False
        driver.send_unheard("COMMIT")
        return True

    def is_unheard(self, dbapi_connection: Any) -> bool:
        return self._driver(dbapi_connection)._hearing is not None

    def hears_all(self, dbapi_connection: Any) -> bool:
        heard: bool = self._driver(dbapi_connection).hears_all()
        return heard

    @property
    def begin_travels(self) -> bool:
        # Poolers rewrite the protocol, and we have none to prove it with.
        return self.limits.session_settings

    def new_burst(self, ahead: Sequence[str] = ()) -> Burst:
        from prefiq_db.drivers.psycopg_bursts import Burst

        return Burst(ahead)

    def in_company(
        self, send: Callable[..., None], state: SessionState, proxied: Any, context: Any
    ) -> Callable[..., None]:
        driver = self._driver(proxied.dbapi_connection)
        if not state.transaction.may_travel or not _is_plain(context) or driver._pipeline is not None:
            return super().in_company(send, state, proxied, context)

        def send_in_burst(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            burst = self.new_burst(self.begin_messages(state.transaction))
            driver.ride(burst)
            try:
                send(cursor, statement, parameters, context)
            finally:
                driver.ride(None)
                _note_begun(state.transaction, burst)

        return send_in_burst


def _is_plain(context: Any) -> bool:
    """Return whether *context* sends its statement once, and reads all its rows at once."""
    return not context.executemany and not context._is_server_side


def _note_begun(transaction: TransactionState, burst: Burst) -> None:
    if not burst.sent:
        return
    transaction.owes_begin = False
    transaction.began = transaction.travelled = True
    if burst.refused_ahead:
        transaction.begin_failed = True
        # As after a failed statement: the block can't go on.
        transaction.aborted = HALF
