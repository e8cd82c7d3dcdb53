"""MariaDB: what travels with a statement is in one message, several statements of one COM_QUERY.

It is safe as long as each is one statement to its very end: the transaction's guard lets no other travel.
"""

from __future__ import annotations

from typing import Any

from prefiq_db.bridge import await_
from prefiq_db.dialects.session import TransactionState
from prefiq_db.dialects.travelling import TravellingDialect


class MariadbTravelling(TravellingDialect):
    """Mixed into MariaDB's dialect. Nothing is proven for MySQL's server."""

    travels_in_text = True

    @property
    def begin_travels(self) -> bool:
        return bool(self.is_mariadb)  # type: ignore[attr-defined]  # MariaDB's dialects have it

    def begin_messages(self, transaction: TransactionState) -> list[str]:
        message = ["START TRANSACTION READ ONLY" if transaction.read_only else "START TRANSACTION"]
        if transaction.isolation is not None:
            # The level holds for the next transaction only.
            message.insert(0, f"SET TRANSACTION ISOLATION LEVEL {transaction.isolation}")
        if transaction.token is not None:
            message.append(self.token_sql(transaction.token))
        return message

    def _driver(self, dbapi_connection: Any) -> Any:
        return dbapi_connection

    def _send_unheard(self, dbapi_connection: Any, text: str) -> bool:
        self.check_not_streaming(dbapi_connection)  # type: ignore[attr-defined]  # MariaDB's dialects have it
        self._driver(dbapi_connection).send_unheard(text)
        return True

    def hears_all(self, dbapi_connection: Any) -> bool:
        return bool(dbapi_connection.hears_all())

    def hear_out(self, dbapi_connection: Any) -> bool:
        dbapi_connection.hear()
        return self.is_at_rest(dbapi_connection)

    def set_statement_timeout(self, proxied: Any, seconds: float) -> None:
        super().set_statement_timeout(proxied, seconds)
        raw = proxied.dbapi_connection
        if self._driver(raw).is_unheard:
            self._hear_before(proxied, raw)

    def _hear_before(self, proxied: Any, raw: Any) -> None:
        """Read the reply that nobody waited for before anything is sent, unless what comes next may be sent twice."""
        state = self.session_of(proxied)
        self._driver(raw).may_overtake = overtakes = state.checkout.repeatable
        if not (overtakes or state.transaction.owes_begin):
            self.hear_out(raw)


class AsyncMariadbTravelling(MariadbTravelling):
    """Mixed into MariaDB's async dialect."""

    def _driver(self, dbapi_connection: Any) -> Any:
        return dbapi_connection._connection

    def _send_unheard(self, dbapi_connection: Any, text: str) -> bool:
        self.check_not_streaming(dbapi_connection)  # type: ignore[attr-defined]  # MariaDB's dialects have it
        await_(self._driver(dbapi_connection).send_unheard(text))
        return True

    def hears_all(self, dbapi_connection: Any) -> bool:
        return bool(await_(self._driver(dbapi_connection).hears_all()))

    def hear_out(self, dbapi_connection: Any) -> bool:
        await_(self._timed_hearing(dbapi_connection))
        return self.is_at_rest(dbapi_connection)

    async def _timed_hearing(self, dbapi_connection: Any) -> None:
        async with dbapi_connection._execute_mutex:
            await self._driver(dbapi_connection).hear()
