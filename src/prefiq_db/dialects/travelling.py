"""PostgreSQL: BEGIN travels with the first statement, and COMMIT with the last, in a burst of libpq's pipeline mode."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from prefiq_db.dialects.sending import StatementDialect
from prefiq_db.dialects.session import GONE, HALF, SessionState, TransactionState
from prefiq_db.dialects.transaction_errors import aborted_error

if TYPE_CHECKING:
    from prefiq_db.drivers.travellers import Burst

_NUMBERED: Final = re.compile(r"\$\d")
#: what a message of PostgreSQL's has room for
_MOST_PARAMETERS: Final = 65535


def was_refused_ahead(error: Exception) -> bool:
    """Return whether *error* is that of a request ahead of the statement, which the server skipped then."""
    return bool(getattr(error, "prefiq_db_ahead", False))


class TravellingDialect(StatementDialect):
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

    @property
    def commit_travels(self) -> bool:
        return self.limits.session_settings

    def new_burst(self, ahead: Sequence[str] = (), behind: str | None = None) -> Burst:
        from prefiq_db.drivers.travellers import Burst

        return Burst(ahead, behind)

    def in_company(
        self, send: Callable[..., None], state: SessionState, proxied: Any, context: Any
    ) -> Callable[..., None]:
        transaction, driver = state.transaction, self._driver(proxied.dbapi_connection)
        alone = context.executemany or context._is_server_side or driver._pipeline is not None or _is_odd(context)
        if alone or not transaction.may_travel:
            return super().in_company(send, state, proxied, context)
        closes = transaction.wants_commit and transaction.may_close and self.commit_travels
        if not closes and not transaction.owes_begin:
            return send

        def send_in_burst(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            # SQLAlchemy may send others first, to get the value of a sequence for example.
            behind = "COMMIT" if closes and statement == getattr(context, "statement", None) else None
            burst = self.new_burst(self.begin_messages(transaction) if transaction.owes_begin else (), behind)
            driver.ride(burst)
            driver.is_committing = behind is not None
            try:
                send(cursor, statement, parameters, context)
            except BaseException:
                _note_begun(transaction, burst)
                if behind is not None and burst.sent and not burst.refused:
                    # Its fate is COMMIT's: refused if the server said so, else unknown.
                    transaction.committing, transaction.aborted = True, GONE
                raise
            finally:
                driver.is_committing = False
                driver.ride(None)
            _note_begun(transaction, burst)
            if behind is not None:
                _note_committed(transaction, burst)

        return send_in_burst


def _is_odd(context: Any) -> bool:
    """Return whether the protocol that a burst needs treats the statement otherwise than psycopg's execute().

    Without parameters psycopg uses the simple protocol, where ``$1`` is a mistake that the server explains; and more
    parameters than the protocol has room for are refused when BEGIN is on its way already.
    """
    statement, parameters = getattr(context, "statement", None), getattr(context, "parameters", None)
    if statement is None or not parameters:
        return statement is not None and _NUMBERED.search(statement) is not None
    return len(parameters[0]) > _MOST_PARAMETERS or (not parameters[0] and _NUMBERED.search(statement) is not None)


def _note_begun(transaction: TransactionState, burst: Burst) -> None:
    if not (burst.sent and burst.ahead):
        return
    transaction.owes_begin = False
    transaction.began = transaction.travelled = True
    if burst.refused_ahead:
        transaction.begin_failed = True
        # As after a failed statement: the block can't go on.
        transaction.aborted = HALF


def _note_committed(transaction: TransactionState, burst: Burst) -> None:
    if burst.tag == "COMMIT":
        transaction.end()
        transaction.committed = True
        return
    transaction.aborted = GONE
    raise aborted_error(None)
