"""PostgreSQL: a prepared statement that a change of its table has made outdated is prepared again."""

from __future__ import annotations

from typing import Any

from prefiq_db.dialects.travelling_postgresql import was_refused_ahead
from prefiq_db.drivers.halfway import close_if_halfway
from prefiq_db.drivers.prepared import is_outdated, is_repeatable, names_of, unprepared


class PreparedAnew:
    """Mixed in below our dialect, replacing SQLAlchemy's default calls: prepare an outdated statement again.

    So a schema change elsewhere costs no failed call, just as it would without prepared statements.
    """

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        has_lists = context is not None and getattr(context.compiled, "post_compile_params", None)
        connection = self._driver_cursor(cursor)._conn
        if connection._hearing is not None:
            self._hear_on_the_way(connection, context)
        try:
            if not has_lists:
                cursor.execute(statement, parameters)
            else:
                with unprepared(self._driver_cursor(cursor)):
                    cursor.execute(statement, parameters)
        except Exception as error:
            connection.ride(None)
            close_if_halfway(connection, error)
            if not self._prepares_anew(cursor, error, statement, parameters):
                raise
        else:
            return
        cursor.execute(statement, parameters)

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        PreparedAnew.do_execute(self, cursor, statement, None, context)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        driver = self._driver_cursor(cursor)
        names = names_of(driver)  # in a pipeline even a statement that fails at once counts as prepared
        try:
            cursor.executemany(statement, parameters)
        except Exception as error:
            close_if_halfway(driver._conn, error)
            # Outside a transaction some rows may be stored already; inside one, the whole transaction has to run again.
            is_outdated(driver, error, statement, parameters[0], names)
            raise

    def _hear_on_the_way(self, connection: Any, context: Any) -> None:
        """Let a verb's statement outside a transaction travel while an earlier reply is still to be read."""
        proxied = None if context is None else context.root_connection._dbapi_connection
        dialect: Any = self
        if connection._burst is None and proxied is not None and dialect.session_of(proxied).checkout.one_shot:
            connection.ride(dialect.new_burst())

    def _prepares_anew(self, cursor: Any, error: Exception, statement: str, parameters: Any) -> bool:
        if was_refused_ahead(error):  # the statement wasn't run, and may not run outside the transaction
            return False
        driver = self._driver_cursor(cursor)
        outdated = is_outdated(driver, error, statement, parameters, names_of(driver))
        return outdated and is_repeatable(driver, statement)

    def _driver_cursor(self, cursor: Any) -> Any:
        raise NotImplementedError
