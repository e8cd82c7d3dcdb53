"""The sync API: ``Database`` and its transactions. The logic is in ``core``; ``database_async`` is the async twin."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, NoReturn, ParamSpec, Self, TypeAlias, TypeVar, Unpack, overload
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from prefiq_db.bridge import SyncRuntime
from prefiq_db.config import RetryPolicy
from prefiq_db.core import (
    DatabaseCore,
    QuietSession,
    assemble,
    begin_attempts,
    engine_of,
    join_options,
    note_session,
    unpicklable,
    wraps_without_tx,
)
from prefiq_db.deprecations import accept_old_name
from prefiq_db.faces.attempts_sync import Attempt as Attempt
from prefiq_db.faces.attempts_sync import AttemptLoop
from prefiq_db.faces.transaction_sync import Transaction
from prefiq_db.faces.verb_names import takes_verbs_of
from prefiq_db.faces.verbs_sync import Verbs
from prefiq_db.hooks.registry import Hooks
from prefiq_db.insight.statement_budgets import StatementBudget
from prefiq_db.overrides import OverrideOptions, OverrideScope
from prefiq_db.reports import DatabaseStats, HealthReport
from prefiq_db.settings import DatabaseSettings
from prefiq_db.silence import hush
from prefiq_db.transaction import Block, Outcome, make_options
from prefiq_db.unrun import refuse_coroutine_function, refuse_generator_function, refuse_uncallable

P = ParamSpec("P")
R = TypeVar("R")

#: What runs in a transaction.
Body: TypeAlias = Callable[Concatenate[Transaction, P], R]


@takes_verbs_of(Verbs)
class Database:
    """One database for threads: queries, transactions, retries, health.

    Args:
        settings: a URL, or :class:`~prefiq_db.DatabaseSettings`. The environment is never read.
        name: the name in logs, errors and events.
        fields: further settings, if *settings* is a URL: ``Database("sqlite:///app.db", pool_size=2)``.

    There is no I/O before :meth:`open`, the ``with`` block, or the first statement.

    Raises:
        SettingsError: if the settings are wrong; the message lists every problem, without values.
        MissingDriverError: if the driver isn't installed; the message names the extra to install.
    """

    is_async = False
    _base: DatabaseCore

    def __init__(self, settings: DatabaseSettings | str, *, name: str = "main", **fields: Any) -> None:
        try:
            self._base = assemble(settings, fields, name, SyncRuntime())
        except BaseException as error:
            del settings, fields
            hush(error)
            raise

    @property
    def _core(self) -> DatabaseCore:
        """The view of the database that calls go to here: a tenant's, where the overrides in force choose one."""
        base = self._base
        return base.here() if base.instance.has_tenants else base

    # --- open and close --------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._base.name

    @property
    def settings(self) -> DatabaseSettings:
        return self._base.settings

    @property
    def hooks(self) -> Hooks:
        """The registry of listeners: ``hooks.before(fn)``, ``.after``, ``.on_error``, ``.add(listener)``."""
        return self._base.hooks

    def open(self) -> None:
        """Fill the pool: the first query then needs no connect, and a database that is down is reported here.

        Raises:
            PrefiqDbError: if no connection succeeds. One is enough; the rest of the pool is best effort.
        """
        self._base.open()

    def close(self) -> None:
        """Close the pool's connections. Later statements raise ClosedError; :meth:`open` opens it again."""
        self._base.close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.settings.target}>"

    def __reduce__(self) -> NoReturn:
        raise unpicklable(self)

    # --- statements ------------------------------------------------------------------------------

    fetch_all = Verbs.fetch_all
    fetch_one = Verbs.fetch_one
    fetch_exactly_one = Verbs.fetch_exactly_one
    fetch_value = Verbs.fetch_value
    stream = Verbs.stream
    execute = Verbs.execute
    execute_many = Verbs.execute_many
    batch = Verbs.batch
    bulk_insert = Verbs.bulk_insert
    upsert = Verbs.upsert

    # --- transactions ----------------------------------------------------------------------------

    def transaction(
        self,
        *,
        isolation: str | None = None,
        read_only: bool = False,
        durable: bool = False,
        exactly_once: bool = False,
        timeout: float | None = None,
        replica: bool | None = None,
    ) -> Transaction:
        """Return a transaction for a ``with`` block; inside another one it is a savepoint.

        Args:
            isolation: ``"READ COMMITTED"``, ``"REPEATABLE READ"``, ``"SERIALIZABLE"`` or ``"READ UNCOMMITTED"``.
            read_only: the server refuses writes.
            durable: raise NestingError inside another transaction.
            exactly_once: when the reply to COMMIT is lost, find out whether it was committed. No error means that it
                was; NotCommittedError means that it was not, and never will be. Needs the table that the shipped
                migrations create.
            timeout: seconds from BEGIN to COMMIT.
            replica: it runs on a replica, or if none can serve, on the primary; needs *read_only*. ``False``: on the
                primary, whatever ``read_from`` says.

        Raises:
            NotCommittedError: the reply to COMMIT was lost, and nothing was committed.
            OutcomeUnknownError: the reply to COMMIT was lost. With ``exactly_once`` this happens only if the database
                stayed unreachable until the budget was spent; the error then has a token for :meth:`resolve_outcome`.
        """
        options = make_options(isolation, read_only, durable, timeout, exactly_once)
        core = self._core.for_transaction(options, replica)
        return Transaction(core, core.transaction(options))

    # A ParamSpec allows no options beside its own, so where one is given, checkers know the result, not the arguments.
    @overload
    def run_in_transaction(self, fn: Body[..., R], *args: Any, exactly_once: bool, **kwargs: Any) -> R: ...
    @overload
    def run_in_transaction(self, fn: Body[..., R], *args: Any, retry: RetryPolicy | None, **kwargs: Any) -> R: ...
    @overload
    def run_in_transaction(self, fn: Body[..., R], *args: Any, isolation: str | None, **kwargs: Any) -> R: ...
    @overload
    def run_in_transaction(self, fn: Body[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run_in_transaction(  # type: ignore[misc] # to mypy, P might have the names of our options
        self,
        fn: Callable[..., Any],
        *args: Any,
        exactly_once: bool = False,
        retry: RetryPolicy | None = None,
        isolation: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run ``fn(tx, *args, **kwargs)`` in a transaction and return its result.

        On deadlock, conflict or lost connection the whole function runs again, in a new transaction.

        Args:
            exactly_once: when the reply to COMMIT is lost, find out whether it was committed, and run *fn* again only
                if it was not and never will be. Needs the table that the shipped migrations create.

        Raises:
            OutcomeUnknownError: if the reply to COMMIT was lost; *fn* never runs again on a guess. With
                ``exactly_once`` this happens only if the database stayed unreachable until the budget was spent; the
                error then has a ``token`` for :meth:`resolve_outcome`. Any other error: nothing was committed.
        """
        refuse_uncallable(fn, "run_in_transaction")
        options = make_options(isolation, False, False, None, exactly_once)
        try:
            return self._core.in_transaction(self._body(fn, args, kwargs), options, retry)
        except BaseException as error:
            del fn, args, kwargs
            self._base.hush(error)
            raise

    @overload
    def transactional(self, fn: Body[P, R]) -> Callable[P, R]: ...
    @overload
    def transactional(
        self,
        fn: None = None,
        *,
        exactly_once: bool = False,
        retry: RetryPolicy | None = None,
        isolation: str | None = None,
    ) -> Callable[[Body[P, R]], Callable[P, R]]: ...
    def transactional(
        self,
        fn: Callable[..., Any] | None = None,
        *,
        exactly_once: bool = False,
        retry: RetryPolicy | None = None,
        isolation: str | None = None,
    ) -> Any:
        """Decorate ``fn(tx, ...)`` so that calling ``fn(...)`` runs it through :meth:`run_in_transaction`."""
        if fn is None:
            return functools.partial(self.transactional, exactly_once=exactly_once, retry=retry, isolation=isolation)
        refuse_generator_function(fn, "transactional")
        refuse_coroutine_function(fn, "transactional")
        options = self._base.declare(make_options(isolation, False, False, None, exactly_once))

        @wraps_without_tx(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                return self._core.in_transaction(self._body(fn, args, kwargs), options, retry)
            except BaseException as error:
                del args, kwargs
                self._base.hush(error)
                raise

        return wrapper

    def _body(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Callable[[Block], Any]:
        def body(tx: Block) -> Any:
            core = self._core
            return core.runtime.call(fn, Transaction(core, tx), *args, **kwargs)

        return body

    def attempts(
        self,
        *,
        exactly_once: bool = False,
        retry: RetryPolicy | None = None,
        isolation: str | None = None,
        read_only: bool = False,
        timeout: float | None = None,
    ) -> AttemptLoop[Transaction]:
        """Return the attempts of a retry loop: ``for attempt in db.attempts(): with attempt as tx: ...``."""
        options = make_options(isolation, read_only, False, timeout, exactly_once)
        core = self._core
        return AttemptLoop(begin_attempts(core, options, retry), lambda tx: Transaction(core, tx))

    def resolve_outcome(self, token: str | UUID) -> Outcome:
        """Return the outcome of the transaction with *token*, whichever process ran it.

        *token* comes from an :class:`~prefiq_db.errors.OutcomeUnknownError` or a transaction (``tx.token``). The call
        settles the outcome: a transaction that is not committed by now never will be. ``unknown`` means that the
        database did not answer in time, that the token is older than a day, or that it is another database's: ask for
        a tenant's with ``using(database=...)``.

        Raises:
            UsageError: if *token* is not a token.
        """
        return self._core.resolve_outcome(token)

    def mark(self) -> str:
        """Return how far the primary is after all that was written here: a token for ``using(after=...)``.

        "Here" is the innermost scope: of :meth:`override`, of the request, or else the task or thread. Reads on a
        replica in the scope wait for it anyway; the token is for the next request or another process, in a header or a
        cookie. It holds no secret. Asks the primary only if that is not known. Without ``replicas`` in the settings it
        asks nobody, and whoever reads on replicas of their own after that token asks the primary, once for each read.

        Raises:
            UsageError: a transaction that may write is open here; no mark can hold what isn't committed.
        """
        return self._core.mark()

    def engine_for(self, replica: str) -> Engine:
        """Return SQLAlchemy's engine of the replica with that name in the settings; its sessions refuse writes.

        A transaction on it waits for what was written in the scope, as all reads on replicas do.

        Raises:
            UsageError: there is no replica of that name.
        """
        return self._core.engine_for(replica).instance.engine

    # --- overrides -------------------------------------------------------------------------------

    def using(self, **overrides: Unpack[OverrideOptions]) -> Self:
        """Return a view of this database with other defaults: any of :class:`~prefiq_db.call.Overrides`."""
        view = object.__new__(type(self))
        view._base = self._base.using(overrides)
        return view

    def override(self, *, inherit: bool = True, **overrides: Unpack[OverrideOptions]) -> OverrideScope:
        """Return a block in which other defaults apply; see :meth:`using`.

        Args:
            inherit: tasks, and threads with a copy of the context, that are started inside it have them, too, until
                they end; ``False``: only the task or thread that enters it.
        """
        return self._base.override(overrides, inherit=inherit)

    # --- diagnosis -------------------------------------------------------------------------------

    def ping(self) -> float:
        """Return how many seconds one round trip takes. Makes one attempt; raises when there is no reply."""
        return self._core.ping()

    def test_connection(self) -> bool:
        """Return whether the database answers; never raises."""
        return self._core.test_connection()

    def health(self, timeout: float | None = None, *, timeout_seconds: float | None = None) -> HealthReport:
        """Report whether the database answers and is ready for work, and if not, why; never raises.

        Makes one attempt of one round trip, within *timeout* seconds. A server that refuses writes is unhealthy, unless
        the settings or ``using(read_only=True)`` rule out writes; ``HealthCheck`` judges the same way.
        ``timeout_seconds`` is the old name of *timeout*.
        """
        return self._core.health(accept_old_name("health", "timeout_seconds", "timeout", timeout, timeout_seconds))

    def stats(self) -> DatabaseStats:
        """Return the current state of the pool and the counters."""
        return self._base.stats()

    def expect(self, *, max_statements: int | None = None) -> StatementBudget:
        """Return a block that fails when more than *max_statements* are sent in it; for tests and development."""
        return self._base.expect(max_statements, None)

    def no_n_plus_one(self, *, max_repeats: int = 2) -> StatementBudget:
        """Return a block that fails when one line sends the same statement more than *max_repeats* times in it."""
        return self._base.expect(None, max_repeats)

    # --- SQLAlchemy's own ------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, with our hooks and masking. Raises inside ``transaction()``: use :meth:`session`."""
        core = self._core
        core.check_engine_allowed()
        return core.instance.engine

    def session(self, *, replica: bool | None = None, **options: Any) -> Session:
        """Return an ORM session; inside ``transaction()`` it works on that transaction, in a savepoint.

        In a transaction its objects don't expire on commit, unless *options* say so. Errors that a session raises are
        both prefiq_db's and SQLAlchemy's, and count for retries. With *replica* it reads on one replica from its
        beginning to its end, and can't write.
        """
        core = self._core.for_session(replica)
        scope = core.pinned()
        if scope is None:
            session = QuietSession(engine_of(core, core.instance.engine), **options)
        else:
            session = QuietSession(scope.connection, join_transaction_mode="create_savepoint", **join_options(options))
        note_session(core.instance, session)
        return session
