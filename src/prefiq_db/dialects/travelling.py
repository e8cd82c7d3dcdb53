"""BEGIN travels with the first statement, COMMIT with the last, and after mere reads COMMIT's reply is read later.

What travels, and what became of it, is decided here for all databases; how it travels is the driver's:
:mod:`~prefiq_db.dialects.travelling_postgresql` and :mod:`~prefiq_db.dialects.travelling_mariadb`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefiq_db.dialects.sending import StatementDialect
from prefiq_db.dialects.session import GONE, HALF, SessionState, TransactionState
from prefiq_db.dialects.transaction_errors import aborted_error
from prefiq_db.drivers.burst import Burst


class TravellingDialect(StatementDialect):
    """Mixed into our dialects whose drivers' connections have ``ride()`` and ``send_unheard()``."""

    def begin_messages(self, transaction: TransactionState) -> list[str]:
        """Return the statements that begin a transaction."""
        raise NotImplementedError

    def _driver(self, dbapi_connection: Any) -> Any:
        raise NotImplementedError

    def new_burst(self, ahead: Sequence[str] = (), behind: str | None = None) -> Any:
        """Return what travels with a statement, for the driver's connection."""
        return Burst(ahead, behind)

    def goes_alone(self, context: Any, driver: Any) -> bool:
        """Return whether nothing can travel with the statement of *context*, however safe that may be."""
        return bool(context.executemany or context._is_server_side)

    def commit_travelled(self, driver: Any, burst: Any) -> None:
        """Take note of a COMMIT that was sent in *burst*, whatever became of it."""

    # --- a reply that is read later --------------------------------------------------------------

    def send_commit_unheard(self, transaction: TransactionState, dbapi_connection: Any) -> bool:
        # What a SERIALIZABLE transaction has read is right only if its COMMIT succeeds.
        level = transaction.isolation or self.default_isolation_level  # type: ignore[attr-defined]
        if level in (None, "SERIALIZABLE") or not self.commit_travels:
            return False
        return self._send_unheard(dbapi_connection, "COMMIT")

    def _send_unheard(self, dbapi_connection: Any, text: str) -> bool:
        """Send *text* without waiting; return ``False``, with nothing sent, where that can't be done."""
        raise NotImplementedError

    def is_unheard(self, dbapi_connection: Any) -> bool:
        return bool(self._driver(dbapi_connection).is_unheard)

    # --- a burst ---------------------------------------------------------------------------------

    @property
    def begin_travels(self) -> bool:
        return True

    @property
    def commit_travels(self) -> bool:
        return self.begin_travels

    def in_company(
        self, send: Callable[..., None], state: SessionState, proxied: Any, context: Any
    ) -> Callable[..., None]:
        transaction, raw = state.transaction, proxied.dbapi_connection
        driver, clock = self._driver(raw), self.clock_of(raw)
        if not transaction.may_travel or self.goes_alone(context, driver):
            return super().in_company(send, state, proxied, context)
        closes = transaction.wants_commit and transaction.may_close and self.commit_travels
        if not closes and not transaction.owes_begin:
            return send

        def send_in_burst(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            # SQLAlchemy may send others first, to get the value of a sequence for example.
            behind = "COMMIT" if closes and statement == getattr(context, "statement", None) else None
            burst = self.new_burst(self.begin_messages(transaction) if transaction.owes_begin else (), behind)
            if behind is not None:
                self.check_not_ended(raw)
            driver.ride(burst)
            clock.is_committing = behind is not None
            try:
                send(cursor, statement, parameters, context)
            except BaseException:
                _note_begun(transaction, burst)
                if behind is not None and burst.sent and not burst.refused:
                    # Its fate is COMMIT's: refused if the server said so, else unknown.
                    transaction.committing, transaction.aborted = True, GONE
                    self.commit_travelled(driver, burst)
                raise
            finally:
                clock.is_committing = False
                driver.ride(None)
            _note_begun(transaction, burst)
            if behind is not None:
                self.commit_travelled(driver, burst)
                _note_committed(transaction, burst)

        return send_in_burst


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
