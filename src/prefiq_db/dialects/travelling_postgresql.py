"""PostgreSQL: what travels with a statement is in one burst of libpq's pipeline mode."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from prefiq_db.dialects.travelling import TravellingDialect

_NUMBERED: Final = re.compile(r"\$\d")
#: what a message of PostgreSQL's has room for
_MOST_PARAMETERS: Final = 65535


def was_refused_ahead(error: Exception) -> bool:
    """Return whether *error* is that of a request ahead of the statement, which the server skipped then."""
    return bool(getattr(error, "prefiq_db_ahead", False))


class PipelineTravelling(TravellingDialect):
    """Mixed into our dialects for psycopg."""

    def new_burst(self, ahead: Sequence[str] = (), behind: str | None = None) -> Any:
        from prefiq_db.drivers.travellers import PipelineBurst

        return PipelineBurst(ahead, behind)

    def goes_alone(self, context: Any, driver: Any) -> bool:
        return super().goes_alone(context, driver) or driver._pipeline is not None or _is_odd(context)

    def _send_unheard(self, dbapi_connection: Any, text: str) -> bool:
        driver = self._driver(dbapi_connection)
        if driver._pipeline is not None:
            return False
        driver.send_unheard(text)
        return True

    def hears_all(self, dbapi_connection: Any) -> bool:
        heard: bool = self._driver(dbapi_connection).hears_all()
        return heard


def _is_odd(context: Any) -> bool:
    """Return whether the protocol that a burst needs treats the statement otherwise than psycopg's execute().

    Without parameters psycopg uses the simple protocol, where ``$1`` is a mistake that the server explains; and more
    parameters than the protocol has room for are refused when BEGIN is on its way already.
    """
    statement, parameters = getattr(context, "statement", None), getattr(context, "parameters", None)
    if statement is None or not parameters:
        return statement is not None and _NUMBERED.search(statement) is not None
    return len(parameters[0]) > _MOST_PARAMETERS or (not parameters[0] and _NUMBERED.search(statement) is not None)
