"""Send each statement to the driver, and note what it does to the open transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from sqlalchemy.pool.base import _AdhocProxiedConnection

from prefiq_db.dialects.session import ENDED, HALF, SessionState, TransactionState
from prefiq_db.dialects.transaction_control import TransactionDialect
from prefiq_db.dialects.transaction_errors import cannot_go_on
from prefiq_db.dialects.values import Values

#: The execution option of an INSERT of many rows that is sent as one statement, so that its failure undoes all of it,
#: and that depends on nothing that its connection did before.
ONE_STATEMENT: Final = "prefiq_one_statement"


class StatementDialect(TransactionDialect):
    """Mixed into our dialects: sending statements."""

    #: how values are converted for the driver
    values: ClassVar[Values]

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Looked up once: for each statement super() would search through all our base classes.
        self._execute: Callable[..., None] = super().do_execute  # type: ignore[misc]

    def is_plain(self, compiled: Any) -> bool:
        """Return whether a statement outside a transaction needs no care of ours before it is sent, or after that."""
        return True

    def is_ready(self, dbapi_connection: Any, state: SessionState, now: float) -> bool:
        """Return whether an idle connection is fit, with the usual limits, and send() may follow at once; never raises.

        ``False`` where that is to be found out, or mended: the other roads do.
        """
        return False

    def has_checked(self, dbapi_connection: Any, columns: frozenset[tuple[str, str]]) -> bool:
        """Return whether the *columns* of exact decimals that a statement names were looked at on this connection."""
        return True

    def is_ready_inside(self, dbapi_connection: Any, state: SessionState, now: float) -> bool:
        """Return whether the transaction is open, or its BEGIN owed, with the usual limits; as :meth:`is_ready`."""
        return False

    def execute_alone(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        """Send a plain statement on a connection that is ready."""
        cursor.execute(statement, parameters)

    def settle(self, dbapi_connection: Any, error: Exception) -> Exception:
        """Return what is to be raised for *error*, which such a statement met, once it was judged."""
        return error

    def knows(self, context: Any, kind: type) -> bool:
        """Return whether the driver takes values of a type that is in none of our tables, such as a range."""
        return False

    def columns_of(self, cursor: Any) -> Any:
        """Return what the driver says of the columns of a result, to be compared; ``None`` if it has no rows."""
        return cursor.description

    def do_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        parameters = self.values.one(parameters, statement, context, self.knows)
        self._send(self._execute, cursor, statement, parameters, context, 1)

    def do_executemany(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> None:
        carrier = getattr(context, "carrier", None)
        if carrier is not None:  # bulk_insert(): its rows are converted already
            self._send(carrier.send, cursor, statement, parameters, context, len(parameters))
            return
        parameters = self.values.many(parameters, statement, context, self.knows)
        self._send(super().do_executemany, cursor, statement, parameters, context, len(parameters))  # type: ignore[misc]

    def do_execute_no_params(self, cursor: Any, statement: str, context: Any = None) -> None:
        def send(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            super(StatementDialect, self).do_execute_no_params(cursor, statement, context)  # type: ignore[misc]

        self._send(send, cursor, statement, None, context, 1)

    def _send(
        self,
        send: Callable[..., None],
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        batch_size: int,
    ) -> None:
        proxied = None if context is None else context._dbapi_connection
        # SQLAlchemy's own queries to a new server belong to no caller, and a listener that used the database here would
        # wait for the very connection that is being opened.
        if proxied is None or type(proxied) is _AdhocProxiedConnection:
            send(cursor, statement, parameters, context)
            return
        state = self.session_of(proxied)
        transaction = state.transaction
        raw = proxied.dbapi_connection
        # It almost always is still open, which two questions tell; where not, the function finds out what to do.
        if transaction.began and (
            transaction.owes_begin or transaction.aborted is not None or not self.in_transaction(raw)
        ):
            self._check_still_open(transaction, proxied, statement)
        guard = state.checkout.guard
        if guard is not None:
            guard(statement, context)
        if self.gate is not None:
            self.refuse_write(statement, state, context)
        if self.commenter is not None:
            call = state.statement.call
            if call is not None and call.tags:
                send = self._send_with_comment(send, call.tags)
        if transaction.owes_begin or transaction.wants_commit:
            send = self.in_company(send, state, proxied, context)
        elif not transaction.began and (self.gate is not None or self.marker is not None):
            send = self.in_step(send, statement, state, proxied, context)
        failure: Exception | None = None
        try:
            if self.observer is None:
                send(cursor, statement, parameters, context)
            else:
                self.observer.observe(send, cursor, statement, parameters, context, batch_size, state)
        except Exception as error:
            failure = self.settle_inside(error, statement, transaction, proxied, context)
            if failure is error:
                raise
        if failure is not None:
            raise failure
        if self.marker is not None and transaction.began:
            self.note_hidden_commit(statement, proxied, context)
        if transaction.began and (transaction.aborted is not None or not self.in_transaction(raw)):
            self._note_ending(transaction, proxied)

    def settle_inside(
        self, error: Exception, statement: str, transaction: TransactionState, proxied: Any, context: Any
    ) -> Exception:
        """Note what *error*, which *statement* met, did to the open transaction; return what is to be raised for it."""
        if self.marker is not None and transaction.began:
            self.note_hidden_commit(statement, proxied, context)
        # Once it has ended, callers must not retry as if another attempt could help, whatever failed.
        return cannot_go_on(transaction) if self._note_failure(error, transaction, proxied, context) else error

    def refuse_write(self, statement: str, state: Any, context: Any) -> None:
        """Raise if *statement* must not be sent to a replica."""

    def note_hidden_commit(self, statement: str, proxied: Any, context: Any) -> None:
        """Note, after *statement* in a transaction, whether it may have committed by itself."""

    def in_step(
        self, send: Callable[..., None], statement: str, state: Any, proxied: Any, context: Any
    ) -> Callable[..., None]:
        """Return *send* for a statement outside a transaction, where there are replicas."""
        return send

    def note_failed_fetch(self, error: Exception, context: Any) -> None:
        """Note what *error*, met while rows were fetched, did to the open transaction."""
        proxied = context.root_connection._dbapi_connection
        self._note_failure(error, self.session_of(proxied).transaction, proxied, context)

    def _note_failure(self, error: Exception, transaction: TransactionState, proxied: Any, context: Any) -> bool:
        """Note what *error* did to the open transaction; return whether the statement had already ended it."""
        if not transaction.began:
            return False
        if transaction.aborted is None:
            transaction.aborted = self.effect_of(error, proxied)
        in_parts = context.executemany and not context.execution_options.get(ONE_STATEMENT)
        if transaction.aborted is None and in_parts:
            # Where a failed row doesn't end the transaction, some rows before it are stored, and we can't tell which.
            transaction.aborted = HALF
        if transaction.aborted is not None:
            transaction.cause = self.judge(error, proxied).by_code
        return transaction.aborted == ENDED

    def _send_with_comment(self, send: Callable[..., None], tags: Mapping[str, str]) -> Callable[..., None]:
        """Return *send* that appends *tags* as a comment to the text; observers see the text without it."""
        commenter: Any = self.commenter
        percent = "%%" if self.paramstyle in ("format", "pyformat") else "%"  # type: ignore[attr-defined]

        def send_commented(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
            send(cursor, commenter(statement, tags, percent=percent), parameters, context)

        return send_commented
