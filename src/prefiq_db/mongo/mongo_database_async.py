"""The async API for MongoDB: ``AsyncMongoDatabase``; the logic is in ``mongo_core``. Twin: ``mongo_database``."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    NoReturn,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    Unpack,
    overload,
)

from prefiq_db.bridge import AsyncRuntime, spawn
from prefiq_db.config import RetryPolicy
from prefiq_db.core import begin_attempts, unpicklable, wraps_without_tx
from prefiq_db.deprecations import accept_old_name
from prefiq_db.faces.attempts_async import AsyncAttemptLoop
from prefiq_db.faces.verb_names import takes_verbs_of
from prefiq_db.hooks.registry import Hooks
from prefiq_db.insight.statement_budgets import StatementBudget
from prefiq_db.mongo.document_verbs_async import AsyncDocumentVerbs
from prefiq_db.mongo.mongo_assembly import assemble_mongo
from prefiq_db.mongo.mongo_options import DocumentOverrides, refuse_isolation
from prefiq_db.mongo.mongo_transaction_async import AsyncMongoTransaction
from prefiq_db.mongo.sql_words import SqlWords
from prefiq_db.overrides import OverrideScope
from prefiq_db.reports import DatabaseStats, HealthReport
from prefiq_db.settings import DatabaseSettings
from prefiq_db.silence import hush
from prefiq_db.transaction import Block, TransactionOptions
from prefiq_db.unrun import refuse_generator_function, refuse_uncallable

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.collection import AsyncCollection

    from prefiq_db.mongo.mongo_core import MongoCore

P = ParamSpec("P")
R = TypeVar("R")

#: What runs in a transaction: a coroutine function, or a plain one.
Body: TypeAlias = Callable[Concatenate[AsyncMongoTransaction, P], Awaitable[R]]
PlainBody: TypeAlias = Callable[Concatenate[AsyncMongoTransaction, P], R]


class MongoTransactionalDecorator(Protocol):
    """What ``transactional(...)`` with options returns."""

    @overload
    def __call__(self, fn: Body[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: PlainBody[P, R], /) -> Callable[P, Coroutine[Any, Any, R]]: ...


@takes_verbs_of(AsyncDocumentVerbs)
class AsyncMongoDatabase(SqlWords):
    """One MongoDB database for the tasks of one event loop: documents, transactions, retries, health.

    Args:
        settings: a URL, or :class:`~prefiq_db.DatabaseSettings`. The environment is never read.
        name: the name in logs, errors and events.
        fields: further settings, if *settings* is a URL: ``AsyncMongoDatabase("mongodb://host/shop", pool_size=2)``.

    There is no I/O before :meth:`open`, the ``async with`` block, or the first verb. It belongs to the event loop that
    uses it first; use from another loop raises EventLoopError.

    Raises:
        SettingsError: if the settings are wrong; the message lists every problem, without values.
        UnsupportedError: if the settings are of a database that keeps tables.
        MissingDriverError: if PyMongo isn't installed; the message names the extra to install.
    """

    is_async = True
    _core: MongoCore

    def __init__(self, settings: DatabaseSettings | str, *, name: str = "main", **fields: Any) -> None:
        try:
            self._core = assemble_mongo(settings, fields, name, AsyncRuntime())
        except BaseException as error:
            del settings, fields
            hush(error)
            raise

    @property
    def _base(self) -> MongoCore:
        return self._core  # a tenant's database has no other parts here

    # --- open and close --------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._core.name

    @property
    def settings(self) -> DatabaseSettings:
        return self._core.settings

    @property
    def hooks(self) -> Hooks:
        """The registry of listeners: ``hooks.before(fn)``, ``.after``, ``.on_error``, ``.add(listener)``."""
        return self._core.hooks

    async def open(self) -> None:
        """Connect: the first call then needs no connect, and a server that is down is reported here.

        Raises:
            PrefiqDbError: if no connection succeeds.
        """
        await spawn(self._core.open)

    async def close(self) -> None:
        """Close all connections. Later calls raise ClosedError; :meth:`open` opens it again."""
        await spawn(self._core.close)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.settings.target}>"

    def __reduce__(self) -> NoReturn:
        raise unpicklable(self)

    # --- documents -------------------------------------------------------------------------------

    find = AsyncDocumentVerbs.find
    find_one = AsyncDocumentVerbs.find_one
    stream = AsyncDocumentVerbs.stream
    count = AsyncDocumentVerbs.count
    aggregate = AsyncDocumentVerbs.aggregate
    insert = AsyncDocumentVerbs.insert
    insert_many = AsyncDocumentVerbs.insert_many
    update = AsyncDocumentVerbs.update
    upsert = AsyncDocumentVerbs.upsert
    delete = AsyncDocumentVerbs.delete
    bulk_write = AsyncDocumentVerbs.bulk_write

    # --- transactions ----------------------------------------------------------------------------

    def transaction(
        self,
        *,
        isolation: str | None = None,
        read_only: bool = False,
        durable: bool = False,
        exactly_once: bool = False,
        timeout: float | None = None,
    ) -> AsyncMongoTransaction:
        """Return a transaction for an ``async with`` block.

        Args:
            isolation: refused: MongoDB's transactions all read a snapshot.
            read_only: the verbs refuse writes.
            durable: what every transaction is here: there are no savepoints to nest.
            exactly_once: what every transaction is here, while this process lives: its COMMIT is repeated until the
                outcome is known.
            timeout: seconds from begin to COMMIT.

        Raises:
            UnsupportedError: in another transaction; or, when it begins, if the server has no transactions.
            OutcomeUnknownError: no COMMIT was answered within the time for retries.
        """
        refuse_isolation(isolation)
        options = TransactionOptions(None, read_only, durable, timeout)
        return AsyncMongoTransaction(self._core, self._core.transaction(options))

    # A ParamSpec allows no options beside its own, so where one is given, checkers know the result, not the arguments.
    @overload
    async def run_in_transaction(self, fn: Body[..., R], *args: Any, exactly_once: bool, **kwargs: Any) -> R: ...
    @overload
    async def run_in_transaction(self, fn: Body[..., R], *args: Any, retry: RetryPolicy | None, **kwargs: Any) -> R: ...
    @overload
    async def run_in_transaction(self, fn: Body[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    async def run_in_transaction(self, fn: PlainBody[..., R], *args: Any, exactly_once: bool, **kwargs: Any) -> R: ...
    @overload
    async def run_in_transaction(
        self, fn: PlainBody[..., R], *args: Any, retry: RetryPolicy | None, **kwargs: Any
    ) -> R: ...
    @overload
    async def run_in_transaction(self, fn: PlainBody[P, R], *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run_in_transaction(  # type: ignore[misc] # to mypy, P might have the names of our options
        self,
        fn: Callable[..., Any],
        *args: Any,
        exactly_once: bool = False,
        retry: RetryPolicy | None = None,
        isolation: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Await ``fn(tx, *args, **kwargs)`` in a transaction and return its result.

        If the server says that nothing was done (its label ``TransientTransactionError``), the whole function runs
        again. If a COMMIT is not answered, the COMMIT is sent again, and never the function.

        Raises:
            OutcomeUnknownError: no COMMIT was answered within the time for retries. Any other error: nothing was
                committed.
        """
        refuse_uncallable(fn, "run_in_transaction")
        refuse_isolation(isolation)
        try:
            return await spawn(self._core.in_transaction, self._body(fn, args, kwargs), TransactionOptions(), retry)
        except BaseException as error:
            del fn, args, kwargs
            self._core.hush(error)
            raise

    @overload
    def transactional(self, fn: Body[P, R]) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def transactional(self, fn: PlainBody[P, R]) -> Callable[P, Coroutine[Any, Any, R]]: ...
    @overload
    def transactional(
        self, fn: None = None, *, exactly_once: bool = False, retry: RetryPolicy | None = None
    ) -> MongoTransactionalDecorator: ...
    def transactional(
        self, fn: Callable[..., Any] | None = None, *, exactly_once: bool = False, retry: RetryPolicy | None = None
    ) -> Any:
        """Decorate ``fn(tx, ...)`` so that awaiting ``fn(...)`` runs it through :meth:`run_in_transaction`."""
        if fn is None:
            return functools.partial(self.transactional, exactly_once=exactly_once, retry=retry)
        refuse_generator_function(fn, "transactional")

        @wraps_without_tx(fn)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            try:
                return await spawn(self._core.in_transaction, self._body(fn, args, kwargs), TransactionOptions(), retry)
            except BaseException as error:
                del args, kwargs
                self._core.hush(error)
                raise

        return wrapper

    def _body(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Callable[[Block], Any]:
        def body(tx: Block) -> Any:
            return self._core.runtime.call(fn, AsyncMongoTransaction(self._core, tx), *args, **kwargs)

        return body

    def attempts(
        self, *, retry: RetryPolicy | None = None, read_only: bool = False, timeout: float | None = None
    ) -> AsyncAttemptLoop[AsyncMongoTransaction]:
        """Return the attempts of a retry loop: ``for attempt in db.attempts(): async with attempt as tx: ...``."""
        options = TransactionOptions(None, read_only, timeout_seconds=timeout)
        core = self._core
        return AsyncAttemptLoop(begin_attempts(core, options, retry), lambda tx: AsyncMongoTransaction(core, tx))

    # --- overrides -------------------------------------------------------------------------------

    def using(self, **overrides: Unpack[DocumentOverrides]) -> Self:
        """Return a view of this database with other defaults.

        ``timeout``, ``retry``, ``read_only``, ``idempotent`` and ``tags`` as on SQL; ``database``: another database of
        the same server, a tenant's say; ``replica``: reads go to a secondary, if there is one.
        """
        view = object.__new__(type(self))
        view._core = self._core.using(overrides)
        return view

    def override(self, *, inherit: bool = True, **overrides: Unpack[DocumentOverrides]) -> OverrideScope:
        """Return a block in which other defaults apply; see :meth:`using`.

        Args:
            inherit: tasks, and threads with a copy of the context, that are started inside it have them, too, until
                they end; ``False``: only the task or thread that enters it.
        """
        return self._core.override(overrides, inherit=inherit)

    # --- diagnosis -------------------------------------------------------------------------------

    async def ping(self) -> float:
        """Return how many seconds one round trip takes. Makes one attempt; raises when there is no reply."""
        return await spawn(self._core.ping)

    async def test_connection(self) -> bool:
        """Return whether the server answers; never raises."""
        return await spawn(self._core.test_connection)

    async def health(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as in the sync API, which has no asyncio.timeout
        *,
        timeout_seconds: float | None = None,
    ) -> HealthReport:
        """Report whether the server answers and is ready for work, and if not, why; never raises.

        Makes one attempt of one round trip, within *timeout* seconds. A set without a primary is unhealthy, unless the
        settings or ``using(read_only=True)`` rule out writes. ``timeout_seconds`` is the old name of *timeout*.
        """
        limit = accept_old_name("health", "timeout_seconds", "timeout", timeout, timeout_seconds)
        return await spawn(self._core.health, limit)

    def stats(self) -> DatabaseStats:
        """Return the current state of the pool and the counters."""
        return self._core.stats()

    def expect(self, *, max_statements: int | None = None) -> StatementBudget:
        """Return a block that fails when more than *max_statements* are sent in it; for tests and development."""
        return self._core.expect(max_statements, None)

    def no_n_plus_one(self, *, max_repeats: int = 2) -> StatementBudget:
        """Return a block that fails when one line sends the same command more than *max_repeats* times in it."""
        return self._core.expect(None, max_repeats)

    # --- PyMongo's own ---------------------------------------------------------------------------

    @property
    def client(self) -> AsyncMongoClient[dict[str, Any]]:
        """PyMongo's client, with our hooks and masking. It knows nothing of our retries and overrides."""
        client: AsyncMongoClient[dict[str, Any]] = self._core.own_client()
        return client

    def collection(self, name: str) -> AsyncCollection[dict[str, Any]]:
        """Return PyMongo's collection *name*, with our hooks and masking, and without our retries and overrides."""
        found: AsyncCollection[dict[str, Any]] = self._core.own_collection(name)
        return found
