"""The class of ``db.engine``: SQLAlchemy's engine, whose raw connections are in a transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.engine.base import OptionEngineMixin
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.pool import PoolProxiedConnection

from prefiq_db.dialects.characteristics import SCHEMA
from prefiq_db.dialects.transaction_errors import undone_error
from prefiq_db.errors import ClosedError, UnsupportedError


class PrefiqConnection(Connection):
    """SQLAlchemy's connection, with our isolation levels."""

    def __init__(self, engine: Engine, connection: PoolProxiedConnection | None = None, **options: Any) -> None:
        super().__init__(engine, checked_out(engine) if connection is None else connection, **options)

    _is_own = False

    @property
    def connection(self) -> PoolProxiedConnection:
        """The pooled connection of the driver's; a BEGIN that waits for the first statement is sent before."""
        proxied = super().connection
        dialect: Any = self.dialect
        state = dialect.session_of(proxied)
        transaction = state.transaction
        if transaction.managed and not self._is_own:
            if transaction.committed:
                raise ClosedError("the transaction has ended with the statement that was said to be the last")
            # What runs on it now, we don't see.
            transaction.only_reads = False
            self.send_begin()
        if not self._is_own:
            state.checkout.driver_works = True
            dialect.let_driver_work(proxied.dbapi_connection)
        return proxied

    def _revalidate_connection(self) -> PoolProxiedConnection:
        """Take another connection instead of a lost one, with what was chosen for it: the isolation, a schema.

        SQLAlchemy would take a raw one, and forget it all.
        """
        if not self.invalidated or self._transaction is not None:
            return super()._revalidate_connection()
        self._dbapi_connection = proxied = checked_out(self.engine)
        self.dialect.set_connection_execution_options(self, self._execution_options)
        return proxied

    def send_begin(self) -> None:
        """Send a BEGIN that waits for the first statement; do nothing if there is none."""
        dialect: Any = self.dialect
        try:
            dialect.begin_owed(self._dbapi_connection)
        except BaseException as error:  # noqa: BLE001 - SQLAlchemy decides how to raise it
            self._handle_dbapi_exception(error, None, None, None, None)

    #: a BEGIN waits for the first statement
    begin_waits = False

    def _execute_context(self, dialect: Any, constructor: Any, statement: Any, *arguments: Any, **options: Any) -> Any:
        if self.begin_waits:
            self.begin_waits = False
            if self._shows_its_cursor(arguments):
                self.send_begin()
        try:
            return super()._execute_context(dialect, constructor, statement, *arguments, **options)
        except BaseException:
            del statement, arguments, options  # values must not stay in this frame
            raise

    def _shows_its_cursor(self, arguments: tuple[Any, ...]) -> bool:
        """Return whether somebody else may use the driver's cursor before we send the statement, or in our place.

        Listeners get it, and so do Python functions that make a column's default.
        """
        listens: Any = self.dialect.dispatch
        if (
            self.dispatch.before_cursor_execute
            or listens.do_execute
            or listens.do_execute_no_params
            or listens.do_executemany
        ):
            return True
        compiled = arguments[2] if len(arguments) > 2 else None
        # A column of the second row of several in one VALUES has no onupdate.
        made = [column.default for column in getattr(compiled, "insert_prefetch", ())]
        made += [column.onupdate for column in getattr(compiled, "update_prefetch", ())]
        return any(getattr(each, "is_callable", False) for each in made)

    def _begin_impl(self, transaction: RootTransaction) -> None:
        dialect: Any = self.dialect
        state = dialect.session_of(self._dbapi_connection)
        if state.transaction.managed and not state.checkout.one_shot and not getattr(transaction, "is_of_block", False):
            raise undone_error()
        self._as_its_own(super()._begin_impl, transaction)

    def _commit_impl(self) -> None:
        self._as_its_own(super()._commit_impl)

    def _rollback_impl(self) -> None:
        self._as_its_own(super()._rollback_impl)

    def _as_its_own(self, control: Callable[..., None], *arguments: Any) -> None:
        """Run SQLAlchemy's *control*, which takes the driver's connection only to begin or end the transaction."""
        self._is_own = True
        try:
            control(*arguments)
        finally:
            self._is_own = False

    def get_isolation_level(self) -> IsolationLevel:
        """Return the level of the open transaction or, outside of one, of the next; never ``AUTOCOMMIT``.

        If no level was chosen, this asks the server, which doesn't know what our BEGIN is going to say.
        """
        dialect: Any = self.dialect
        chosen: IsolationLevel | None = dialect.chosen_isolation(dialect.session_of(self._dbapi_connection))
        return super().get_isolation_level() if chosen is None else chosen


class PrefiqEngine(Engine):
    """SQLAlchemy's engine; ``raw_connection()`` behaves as on a driver that is not in autocommit.

    Our connections are in autocommit (docs/decisions/0002-driver-autocommit-with-our-own-begin.md), where
    ``rollback()`` does nothing: half of the work on a raw connection would stay.
    """

    _connection_cls = PrefiqConnection

    def raw_connection(self) -> PoolProxiedConnection:
        """Return a connection of the driver's own, in a transaction that the driver begins (PEP 249).

        Without ``commit()`` nothing stays. ``close()`` returns it to the pool, clean.
        """
        dialect: Any = self.dialect
        dialect.check_driver_may_begin()
        if self.get_execution_options().get(SCHEMA) is not None:
            raise UnsupportedError("raw_connection() under a schema: the driver's own BEGIN doesn't choose it")
        proxied = self.pool.connect()
        try:
            dialect.let_driver_begin(proxied)
            if not dialect.reuses_raw:
                dialect.session_of(proxied).checkout.tainted = True
        except BaseException:
            proxied.invalidate()
            proxied.close()
            raise
        return proxied


class _OptionEngine(OptionEngineMixin, PrefiqEngine):
    """The result of our engine's ``execution_options()``."""

    def update_execution_options(self, **opt: Any) -> None:
        PrefiqEngine.update_execution_options(self, **opt)


PrefiqEngine._option_cls = _OptionEngine  # type: ignore[assignment]  # SQLAlchemy declares its own class


def checked_out(engine: Engine) -> PoolProxiedConnection:
    """Return a connection from *engine*'s pool; a connection error is SQLAlchemy's, as on any engine."""
    try:
        return engine.pool.connect()
    except engine.dialect.loaded_dbapi.Error as error:
        Connection._handle_dbapi_exception_noconnection(error, engine.dialect, engine)
        raise


def taken(engine: Engine) -> Any:
    """Return a connection's place in *engine*'s pool, without SQLAlchemy's proxy; errors as of :func:`checked_out`."""
    try:
        return engine.pool.take()  # type: ignore[attr-defined]  # our pool has it
    except engine.dialect.loaded_dbapi.Error as error:
        connection_failed(engine, error)
        raise


def connection_failed(engine: Engine, error: BaseException) -> None:
    """Let SQLAlchemy handle *error*, which a checkout raised; it raises it, if it is the driver's."""
    if isinstance(error, engine.dialect.loaded_dbapi.Error):
        Connection._handle_dbapi_exception_noconnection(error, engine.dialect, engine)
